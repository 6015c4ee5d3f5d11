package dev.mobilebundle.demo

import android.app.Activity
import android.content.ClipboardManager
import android.content.Context
import android.content.Intent
import android.net.Uri
import android.view.View
import android.view.ViewGroup
import android.widget.EditText
import android.widget.ListView
import android.widget.TextView
import dev.mobilebundle.demo.ui.ChatActivity
import dev.mobilebundle.demo.ui.ConversationsActivity
import dev.mobilebundle.lm.ModelState
import dev.mobilebundle.lm.Role
import dev.mobilebundle.lm.StoredBundle
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.IOException
import java.io.OutputStream
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.robolectric.Robolectric
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.shadows.ShadowAlertDialog
import org.robolectric.shadows.ShadowToast

/** The list of conversations, and what can be done with one. */
class ConversationTest : AppTest() {
    private lateinit var bundle: StoredBundle

    @Before
    fun prepare() {
        app.settings.temperature = 0
        app.settings.maxNewTokens = 8
        bundle = imported(Inputs.chatModel)
    }

    private fun ask(text: String) {
        assertTrue(app.chat.send(text))
        waitFor("the answer") { !app.chat.answering }
        settle()
    }

    private fun listed(query: String = ""): List<ConversationSummary> {
        var found: List<ConversationSummary>? = null
        app.chat.list(query) { found = it }
        waitFor("the list") { found != null }
        return found!!
    }

    private fun conversations(): ActivityController<ConversationsActivity> =
        Robolectric.buildActivity(ConversationsActivity::class.java).setup().also {
            settle()
            layOut()
        }

    /** The list of conversations, as it is when they are read. */
    private fun inTheList(work: ConversationsActivity.() -> Unit) = conversations().use { controller ->
        controller.get().titles()
        controller.get().work()
    }

    /** What was asked and answered last, as a text for other apps. */
    private fun lastAsText() = app.chat.turns.takeLast(2).let { (asked, answer) ->
        "You:\n${asked.text}\n\n${bundle.manifest.name}:\n${answer.text.trim()}"
    }

    private fun ConversationsActivity.row(i: Int): View = findViewById<ListView>(R.id.conversations).getChildAt(i)

    private fun ConversationsActivity.titles(): List<String> {
        settle()
        layOut()
        val list = findViewById<ListView>(R.id.conversations)
        return (0 until list.childCount).map { list.getChildAt(it).findViewById<TextView>(R.id.conversation_title).text.toString() }
    }

    private fun ChatActivity.row(i: Int): View {
        layOut()
        return findViewById<ListView>(R.id.messages).let { it.getChildAt(i - it.firstVisiblePosition) }
    }

    @Test
    fun fault2aNewConversationErasesNothing() {
        chat(bundle).use { controller ->
            ask("What is the history of the city and of the river that it was built on?")
            val first = app.chat.turns.toList()
            controller.get().press(R.id.header_action)
            assertTrue(app.chat.turns.isEmpty())
            ask("Who was he?")
            val titles = listed().map { it.title }
            assertEquals(listOf("Who was he?", "What is the history of the city and of the river…"), titles)
            app.chat.openConversation(listed()[1].id)
            settle()
            assertEquals(first, app.chat.turns)
        }
        // Another model's list is its own.
        chat(imported(Inputs.textModel)).use { assertTrue(listed().isEmpty()) }
    }

    @Test
    fun fault3aMessageSentSoonAfterANewConversationIsAnswered() {
        slowPhone()
        chat(bundle).use { controller ->
            app.settings.maxNewTokens = 200
            app.chat.send("Tell me a long story")
            waitFor("some of it") { app.chat.turns.last().text.length > 20 }
            val old = app.chat.conversationId
            controller.get().press(R.id.header_action)
            app.settings.maxNewTokens = 8
            assertTrue(app.chat.send("Who was he?"))
            waitFor("the answer") { !app.chat.answering }
            assertEquals(Ending.LENGTH, app.chat.turns.last().ending)
            assertEquals(2, app.chat.turns.size)
            settle()
            val before = off { app.conversations.load(bundle.id, old) }!!
            assertEquals("what was there of the old answer is kept", Ending.STOPPED, before.answer!!.ending)
            assertTrue(before.answer!!.text.length > 20)
            assertEquals(1, children().size)
        }
    }

    @Test
    fun deletedAndBroughtBack() {
        chat(bundle).use {
            ask("One")
            app.chat.newConversation()
            ask("Two")
            conversations().use { controller ->
                val screen = controller.get()
                assertEquals(listOf("Two", "One"), screen.titles())
                screen.row(0).findViewById<View>(R.id.conversation_delete).performClick()
                assertEquals(listOf("One"), screen.titles())
                assertTrue("the open one is put away, too", app.chat.turns.isEmpty())
                controller.recreate()
                settle()
                assertTrue(controller.get().isShown(R.id.undo_bar))
                controller.get().press(R.id.undo)
                assertEquals(listOf("Two", "One"), controller.get().titles())
                controller.get().row(0).findViewById<View>(R.id.conversation_delete).performClick()
                settle()
            }
            off { app.conversations.purge() }
            val left = File(app.filesDir, "chats/${bundle.id}").list().orEmpty().map { it.substringAfterLast('.') }.sorted()
            assertEquals("the conversation that was not deleted, with its state", listOf("json", "state"), left)
        }
    }

    @Test
    fun searched() {
        chat(bundle).use {
            ask("Where does the Nile begin?")
            app.chat.newConversation()
            ask("And the Congo?")
            inTheList {
                findViewById<EditText>(R.id.search).setText("nile")
                assertEquals(listOf("Where does the Nile begin?"), titles())
                val found = row(0).findViewById<TextView>(R.id.conversation_found).text.toString()
                assertTrue(found, "Nile" in found)
                findViewById<EditText>(R.id.search).setText("no such words")
                assertTrue(titles().isEmpty())
                assertEquals(app.getString(R.string.nothing_found), text(R.id.no_conversations))
            }
        }
    }

    @Test
    fun openedFromTheList() {
        chat(bundle).use {
            ask("One")
            app.chat.newConversation()
            ask("Two")
            inTheList {
                row(1).findViewById<View>(R.id.conversation_open).performClick()
                settle()
                assertEquals("One", app.chat.turns[0].text)
                assertTrue(isFinishing)
            }
        }
    }

    @Test
    fun sharedAsText() {
        chat(bundle).use {
            ask("Who was he?")
            inTheList {
                chooseToShare(0)
                assertEquals(lastAsText(), chooserText(this))
            }
        }
    }

    /** [choice]: 0 as text, 1 as a file. */
    private fun ConversationsActivity.chooseToShare(choice: Int) {
        row(0).findViewById<View>(R.id.conversation_share).performClick()
        shadowOf(ShadowAlertDialog.getLatestAlertDialog()).clickOnItem(choice)
        settle()
    }

    private fun ConversationsActivity.saveAs(output: OutputStream): String {
        val asked = shadowOf(this).nextStartedActivityForResult
        assertEquals(Intent.ACTION_CREATE_DOCUMENT, asked.intent.action)
        val target = Uri.parse("content://documents/conversation.txt")
        shadowOf(app.contentResolver).registerOutputStream(target, output)
        shadowOf(this).receiveResult(asked.intent, Activity.RESULT_OK, Intent().setData(target))
        repeat(2) { settle() } // read, then written
        assertEquals("Who was he.txt", asked.intent.getStringExtra(Intent.EXTRA_TITLE))
        return ShadowToast.getTextOfLatestToast()
    }

    @Test
    fun savedAsAFile() {
        chat(bundle).use {
            ask("Who was he?")
            inTheList {
                chooseToShare(1)
                val file = ByteArrayOutputStream()
                assertEquals(app.getString(R.string.saved_as_file), saveAs(file))
                assertEquals(lastAsText(), file.toString())
                chooseToShare(1)
                val full = object : OutputStream() {
                    override fun write(byte: Int) = throw IOException("the card is full")
                }
                assertEquals(app.getString(R.string.not_saved_as_file), saveAs(full))
            }
        }
    }

    @Test
    fun oneThatIsTooLongForAnotherAppBecomesAFile() {
        val long = listOf(Turn(Role.USER, "Who was he?")) + (0 until 40).map { Turn(Role.ASSISTANT, "A king. ".repeat(500), Ending.LENGTH) }
        off { app.conversations.save(Conversation(bundle.id, turns = long)) }
        chat(bundle).use {
            inTheList {
                chooseToShare(0)
                val file = ByteArrayOutputStream()
                saveAs(file)
                assertTrue("${file.size()}", file.size() > 150_000)
            }
        }
    }

    @Test
    fun everyAnswerIsCopiedAndShared() {
        chat(bundle).use { controller ->
            ask("One")
            ask("Two")
            val screen = controller.get()
            for (i in listOf(1, 3)) {
                screen.row(i).findViewById<View>(R.id.copy).performClick()
                val clipboard = app.getSystemService(Context.CLIPBOARD_SERVICE) as ClipboardManager
                assertEquals(app.chat.turns[i].text, clipboard.primaryClip!!.getItemAt(0).text)
                screen.row(i).findViewById<View>(R.id.share).performClick()
                assertEquals(app.chat.turns[i].text, chooserText(screen))
            }
        }
    }

    @Test
    fun editedAndAskedAgainInAConversationOfItsOwn() {
        chat(bundle).use { controller ->
            ask("One")
            ask("Two")
            val before = app.chat.turns.toList()
            val id = app.chat.conversationId
            controller.get().row(2).findViewById<View>(R.id.edit).performClick()
            val prompt = controller.get().findViewById<EditText>(R.id.prompt)
            assertEquals("Two", prompt.text.toString())
            prompt.setText("Three")
            controller.recreate()
            layOut()
            assertTrue("still editing after a rotation", controller.get().isShown(R.id.editing))
            controller.get().press(R.id.send)
            waitFor("the answer") { !app.chat.answering }
            settle()
            assertEquals(listOf("One", "Three"), app.chat.turns.filter { it.role == Role.USER }.map { it.text })
            assertNotEquals(id, app.chat.conversationId)
            assertEquals(before, off { app.conversations.load(bundle.id, id) }!!.turns)
            assertFalse(controller.get().isShown(R.id.editing))
        }
    }

    @Test
    fun savedAsItGrows() {
        slowPhone()
        app.settings.maxNewTokens = 400
        chat(bundle).use {
            app.chat.send("Tell me a long story")
            waitFor("more than a second of it") {
                val saved = app.disk.submit<Conversation?> { app.conversations.latest(bundle.id) }.get()
                (saved?.answer?.text?.length ?: 0) > 20
            }
            assertTrue("nobody had to end it", app.chat.answering)
        }
    }

    @Test
    fun aFullDiskIsToldAndLosesNothing() {
        chat(bundle).use { controller ->
            waitFor("the model") { app.chat.state is ModelState.Ready }
            val folder = File(app.filesDir, "chats")
            folder.deleteRecursively()
            folder.writeText("in the way")
            ask("Who was he?")
            assertEquals(app.getString(R.string.notice_not_saved), controller.get().text(R.id.notice))
            assertEquals(2, app.chat.turns.size)
            folder.delete()
            ask("And she?")
            assertEquals(4, off { app.conversations.latest(bundle.id) }!!.turns.size)
        }
    }

    @Test
    fun aDamagedFileIsNotTouched() {
        chat(bundle).use { ask("One") }
        app.chat.close()
        settle()
        val file = File(app.filesDir, "chats/${bundle.id}").listFiles()!!.single { it.name.endsWith(".json") }
        file.writeText("[{\"role\": \"WHO\"")
        chat(bundle).use {
            assertTrue(app.chat.turns.isEmpty())
            ask("Two")
            assertEquals(listOf("Two"), listed().map { it.title })
        }
        assertEquals("[{\"role\": \"WHO\"", file.readText())
    }

    @Test
    fun namesAreTheFirstWords() {
        fun title(text: String) = titleOf(listOf(Turn(Role.USER, text)))
        assertEquals("Hello", title("  Hello \n"))
        assertEquals("a b", title("a\n\n b"))
        assertEquals("x".repeat(48), title("x".repeat(5000)))
        assertEquals("", titleOf(emptyList()))
        assertTrue(title("word ".repeat(50)).let { it.length <= 49 && it.endsWith("…") })
    }
}
