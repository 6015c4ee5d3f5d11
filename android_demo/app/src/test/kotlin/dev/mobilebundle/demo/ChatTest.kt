package dev.mobilebundle.demo

import android.content.ClipboardManager
import android.content.ComponentCallbacks2
import android.content.Context
import android.os.Bundle
import android.view.View
import android.widget.EditText
import android.widget.ListView
import android.widget.TextView
import dev.mobilebundle.demo.ui.ChatActivity
import dev.mobilebundle.lm.ModelState
import dev.mobilebundle.lm.Role
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.robolectric.Robolectric
import org.robolectric.Shadows.shadowOf
import org.robolectric.shadows.ShadowAlertDialog

/** The chat screen with the real runner and a real model. */
class ChatTest : AppTest() {
    private val prompt = "The history of the city"

    @Before
    fun greedy() {
        app.settings.temperature = 0
        app.settings.repetitionPenalty = 100
    }

    private fun ChatActivity.say(text: String) {
        findViewById<EditText>(R.id.prompt).setText(text)
        press(R.id.send)
    }

    private fun ChatActivity.row(i: Int): View {
        layOut()
        val list = findViewById<ListView>(R.id.messages)
        return list.getChildAt(i - list.firstVisiblePosition)
    }

    private fun ChatActivity.bubble(i: Int): TextView = row(i).findViewById(R.id.text)

    private fun ChatActivity.pressAction(id: Int, message: Int = app.chat.turns.lastIndex) {
        val button = row(message).findViewById<View>(id)
        assertTrue("the button is shown", button.isShown)
        button.performClick()
        idle()
    }

    private fun waitForAnswer() = waitFor("the answer") { !app.chat.answering }

    /** A long answer, and the moment at which some of it is there. */
    private fun ChatActivity.answerHalfway() {
        app.settings.maxNewTokens = 400
        say(prompt)
        waitFor("some of the answer") { app.chat.turns.last().text.length > 40 }
        assertTrue("still answering", app.chat.answering)
    }

    @Test
    fun streamsAnAnswerAndSaysWhatItCost() {
        slowPhone()
        app.settings.maxNewTokens = 400
        chat(imported(Inputs.textModel)).use { controller ->
            val screen = controller.get()
            waitFor("the model") { app.chat.state is ModelState.Ready }
            screen.say(prompt)
            assertEquals(prompt, screen.bubble(0).text.toString())
            assertEquals(app.getString(R.string.stop_answer), screen.findViewById<View>(R.id.send).contentDescription)
            val seen = LinkedHashSet<String>()
            waitFor("the answer") {
                seen += screen.bubble(1).text.toString()
                !app.chat.answering
            }
            assertTrue("the text came in steps: $seen", seen.size > 5)
            val answer = app.chat.turns.last()
            assertEquals(answer.text.trimStart(), screen.bubble(1).text.toString())
            assertEquals(Ending.LENGTH, answer.ending)
            assertEquals("in plain words", app.getString(R.string.status_ready), screen.text(R.id.status))
            screen.press(R.id.status_row)
            val figures = shadowOf(ShadowAlertDialog.getLatestAlertDialog()).message.toString()
            assertTrue(figures, Regex("""Answer: 400 tokens, [\d.,]+ tokens/s""").containsMatchIn(figures))
            assertTrue(figures, Regex("""Memory: [\d.]+ MB at most, [\d.]+ MB its own""").containsMatchIn(figures))
        }
    }

    @Test
    fun stopRegenerateContinueAndCopy() {
        slowPhone()
        chat(imported(Inputs.textModel)).use { controller ->
            val screen = controller.get()
            screen.answerHalfway()
            screen.press(R.id.send)
            waitForAnswer()
            val stopped = app.chat.turns.last()
            assertEquals(Ending.STOPPED, stopped.ending)

            screen.pressAction(R.id.copy)
            val clipboard = app.getSystemService(Context.CLIPBOARD_SERVICE) as ClipboardManager
            assertEquals(stopped.text, clipboard.primaryClip!!.getItemAt(0).text)

            app.settings.maxNewTokens = 8
            screen.pressAction(R.id.go_on)
            waitForAnswer()
            val longer = app.chat.turns.last().text
            assertTrue(longer, longer.startsWith(stopped.text) && longer.length > stopped.text.length)

            screen.pressAction(R.id.regenerate)
            waitForAnswer()
            assertEquals(2, app.chat.turns.size)
            assertTrue("greedy: the same beginning", longer.startsWith(app.chat.turns.last().text))
            // all of it by one process, which was never started again
            assertEquals(1, children().size)
        }
    }

    @Test
    fun stopWhileTheModelIsLoading() {
        slowPhone()
        app.settings.maxNewTokens = 400
        chat(imported(Inputs.textModel)).use { controller ->
            app.chat.settingsChanged()
            assertTrue("it is loaded anew", app.chat.state is ModelState.Loading)
            assertTrue(app.chat.send(prompt))
            app.chat.stop()
            assertFalse(app.chat.answering)
            assertEquals(Ending.STOPPED, app.chat.turns.last().ending)
            waitFor("the model") { app.chat.state is ModelState.Ready }
            assertEquals(app.getString(R.string.no_answer), controller.get().bubble(1).text.toString())
            assertEquals("what came too late is left out", "", app.chat.turns.last().text)
        }
    }

    @Test
    fun rotationLosesNothing() {
        slowPhone()
        chat(imported(Inputs.textModel)).use { controller ->
            controller.get().answerHalfway()
            controller.get().findViewById<EditText>(R.id.prompt).setText("half a message")
            val before = app.chat.turns.last().text
            controller.configurationChange(
                android.content.res.Configuration(app.resources.configuration).apply {
                    orientation = android.content.res.Configuration.ORIENTATION_LANDSCAPE
                },
            )
            controller.recreate()
            idle()
            val screen = controller.get()
            assertTrue("goes on", app.chat.answering)
            assertTrue(screen.bubble(1).text.toString().startsWith(before.trimStart()))
            assertEquals("half a message", screen.findViewById<EditText>(R.id.prompt).text.toString())
            screen.press(R.id.send)
            waitForAnswer()
            assertEquals(1, children().size)
        }
    }

    @Test
    fun theConversationOutlivesTheApp() {
        slowPhone()
        val bundle = imported(Inputs.textModel)
        val state = Bundle()
        chat(bundle).use { controller ->
            controller.get().answerHalfway()
            controller.pause().stop().saveInstanceState(state)
        }
        val written = app.chat.turns.last().text
        app.chat.close()
        // What a new process would read.
        val restored = app.disk.submit<Conversation> { app.conversations.latest(bundle.id) }.get()
        assertEquals(prompt, restored.question)
        assertEquals(Ending.INTERRUPTED, restored.answer!!.ending)
        assertTrue(written.startsWith(restored.answer!!.text.take(20)))
        Robolectric.buildActivity(ChatActivity::class.java, ChatActivity.intent(app, bundle.id)).use { controller ->
            val screen = controller.setup(state).get()
            waitFor("the conversation") { app.chat.turns.isNotEmpty() }
            assertEquals(prompt, screen.bubble(0).text.toString())
            app.settings.maxNewTokens = 8
            screen.pressAction(R.id.go_on)
            waitForAnswer()
            assertTrue(app.chat.turns.last().text.length > restored.answer!!.text.length)
        }
    }

    @Test
    fun theChildIsKilledInMidAnswer() {
        slowPhone()
        chat(imported(Inputs.textModel)).use { controller ->
            val screen = controller.get()
            screen.answerHalfway()
            children().single().destroyForcibly()
            waitForAnswer()
            idle()
            assertEquals(Ending.INTERRUPTED, app.chat.turns.last().ending)
            assertEquals(app.getString(R.string.error_killed), screen.text(R.id.notice))
            val begun = app.chat.turns.last().text
            app.settings.maxNewTokens = 8
            screen.pressAction(R.id.go_on)
            waitForAnswer()
            idle()
            assertTrue(app.chat.turns.last().text.startsWith(begun))
            assertEquals(Ending.LENGTH, app.chat.turns.last().ending)
            assertFalse(screen.isShown(R.id.notice))
        }
    }

    @Test
    fun lowMemoryWhileLookingIsToldAndGoesOnWhenAsked() {
        slowPhone()
        chat(imported(Inputs.textModel)).use { controller ->
            val screen = controller.get()
            screen.answerHalfway()
            app.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN)
            assertTrue("hidden alone is no reason", app.chat.answering)
            app.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL)
            idle()
            waitFor("the end of the process") { children().isEmpty() }
            assertEquals(app.getString(R.string.notice_low_memory), screen.text(R.id.notice))
            val begun = app.chat.turns.last().text
            app.settings.maxNewTokens = 8
            screen.pressAction(R.id.go_on)
            waitForAnswer()
            assertTrue(app.chat.turns.last().text.let { it.startsWith(begun) && it.length > begun.length })
        }
    }

    @Test
    fun lowMemoryInTheBackgroundGoesOnByItself() {
        slowPhone()
        chat(imported(Inputs.textModel)).use { controller ->
            controller.get().answerHalfway()
            controller.pause().stop()
            app.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_BACKGROUND)
            waitFor("the end of the process") { children().isEmpty() }
            val begun = app.chat.turns.last().text
            app.settings.maxNewTokens = 8
            controller.restart().start().resume()
            idle()
            assertEquals(app.getString(R.string.notice_resumed), controller.get().text(R.id.notice))
            waitForAnswer()
            assertTrue(app.chat.turns.last().text.let { it.startsWith(begun) && it.length > begun.length })
        }
    }

    @Test
    fun aModelWithAChatTemplateKeepsWhatItComputed() {
        app.settings.maxNewTokens = 12
        app.settings.systemPrompt = "Be brief."
        chat(imported(Inputs.chatModel)).use { controller ->
            val screen = controller.get()
            screen.say("What is water?")
            waitForAnswer()
            val first = app.chat.stats!!
            screen.say("And what is ice?")
            waitForAnswer()
            assertEquals(listOf(Role.USER, Role.ASSISTANT, Role.USER, Role.ASSISTANT), app.chat.turns.map { it.role })
            assertTrue(app.chat.stats!!.promptTokens > first.promptTokens + first.tokens)
            assertNull(app.chat.notice)
        }
    }

    @Test
    fun aConversationThatOutgrowsTheContextLosesItsBeginning() {
        app.settings.maxNewTokens = 30
        app.settings.context = 256
        chat(imported(Inputs.chatModel)).use { controller ->
            val screen = controller.get()
            repeat(8) {
                screen.say("Tell me about the history of the city, part $it")
                waitForAnswer()
            }
            idle()
            assertEquals(app.getString(R.string.notice_dropped), screen.text(R.id.notice))
            assertEquals("nothing is lost on the screen", 16, app.chat.turns.size)
        }
    }

    @Test
    fun aMissingProgramIsExplained() {
        app.applicationInfo.nativeLibraryDir = "/nonexistent"
        val bundle = imported(Inputs.textModelPacked)
        chat(bundle).use { controller ->
            waitFor("the error") { app.chat.state is ModelState.Failed }
            val notice = controller.get().text(R.id.notice)
            assertTrue(notice, notice.startsWith("The program that runs models cannot be started"))
        }
    }

    @Test
    fun filesThatWereDamagedLaterAreExplained() {
        val bundle = imported(Inputs.textModelPacked)
        File(bundle.directory, "weights.ptd").writeBytes(ByteArray(4096))
        chat(bundle).use { controller ->
            waitFor("the error") { app.chat.state is ModelState.Failed }
            idle()
            val notice = controller.get().text(R.id.notice)
            assertTrue(notice, notice.startsWith("The model's files are damaged"))
        }
    }
}
