package dev.mobilebundle.demo

import android.app.AlertDialog
import android.content.res.Configuration
import android.os.Build
import android.view.View
import android.view.ViewGroup
import android.widget.EditText
import android.widget.ImageButton
import android.widget.ListView
import android.widget.TextView
import dev.mobilebundle.demo.ui.ChatActivity
import dev.mobilebundle.demo.ui.ModelsActivity
import dev.mobilebundle.demo.ui.SettingsActivity
import dev.mobilebundle.lm.ModelError
import dev.mobilebundle.lm.ModelState
import dev.mobilebundle.lm.Role
import dev.mobilebundle.lm.StoredBundle
import java.io.File
import java.util.Locale
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.robolectric.Robolectric
import org.robolectric.RuntimeEnvironment
import org.robolectric.shadows.ShadowAlertDialog
import org.robolectric.util.ReflectionHelpers

/** The faults of the review that the chat and the settings had (docs/ANDROID.md has the list), each by its number. */
class ChatFaultsTest : AppTest() {
    /** The same answer every time, which is a long one. */
    @Before
    fun greedy() {
        app.settings.temperature = 0
        app.settings.repetitionPenalty = 100
    }

    /** A conversation of so many messages on the disk, as a process before would have left it. */
    private fun long(bundle: StoredBundle, messages: Int) = off {
        val turns = (0 until messages).map {
            if (it % 2 == 0) Turn(Role.USER, "Question $it") else Turn(Role.ASSISTANT, "Answer $it ".repeat(30), Ending.COMPLETE)
        }
        app.conversations.save(Conversation(bundle.id, turns = turns))
    }

    private fun halfway(text: String = "Tell me a long story") {
        app.settings.maxNewTokens = 400
        assertTrue(app.chat.send(text))
        waitFor("some of it") { app.chat.turns.last().text.length > 20 }
    }

    @Test
    fun fault10theMainThreadReadsNoFiles() {
        val bundle = imported(Inputs.textModel)
        chat(bundle).use {
            waitFor("the model") { app.chat.state is ModelState.Ready }
            assertTrue(app.chat.send("The history"))
            // Everything that touches a file refuses the main thread, so what works does it elsewhere.
            for (work in listOf<() -> Any?>({ app.store.find(bundle.id) }, { app.store.freeBytes() }, { app.store.delete("x") })) {
                assertTrue(runCatching { work() }.exceptionOrNull() is IllegalStateException)
            }
        }
    }

    @Test
    fun fault11aLongConversationIsAFewViews() {
        val bundle = imported(Inputs.chatModel)
        val views = listOf(20, 500).map { messages ->
            app.chat.close()
            long(bundle, messages)
            val begin = System.nanoTime()
            chat(bundle).use { controller ->
                val list = controller.get().findViewById<ListView>(R.id.messages)
                waitFor("the messages, which are read behind the screen") { list.count > 0 }
                layOut()
                println("$messages messages open in ${(System.nanoTime() - begin) / 1_000_000} ms, ${list.childCount} rows")
                assertEquals(messages, list.count)
                assertEquals("at its end", messages - 1, list.lastVisiblePosition)
                list.childCount
            }
        }
        assertEquals("as many rows for 500 messages as for 20", views[0], views[1])
    }

    @Test
    fun fault11whatGrowsIsFollowedAndWhoReadsIsLeftThere() {
        slowPhone()
        val bundle = imported(Inputs.chatModel)
        long(bundle, 40)
        chat(bundle).use { controller ->
            layOut()
            val screen = controller.get()
            val list = screen.findViewById<ListView>(R.id.messages)
            halfway()
            layOut()
            assertEquals(list.count - 1, list.lastVisiblePosition)
            assertEquals("at the end while it grows", list.height - list.paddingBottom, list.getChildAt(list.childCount - 1).bottom)
            assertFalse(screen.isShown(R.id.to_end))
            swipeDown(list)
            assertTrue(screen.isShown(R.id.to_end))
            val reading = list.firstVisiblePosition to list.getChildAt(0).top
            val length = app.chat.turns.last().text.length
            waitFor("more of it") { app.chat.turns.last().text.length > length + 20 }
            layOut()
            assertEquals(reading, list.firstVisiblePosition to list.getChildAt(0).top)
            screen.press(R.id.to_end)
            waitFor("the end") { list.lastVisiblePosition == list.count - 1 }
        }
    }

    @Test
    fun fault12aScreenReaderIsToldWhatHappens() {
        slowPhone()
        chat(imported(Inputs.chatModel)).use { controller ->
            val screen = controller.get()
            for (id in listOf(R.id.status, R.id.notice, R.id.spoken)) {
                assertEquals(View.ACCESSIBILITY_LIVE_REGION_POLITE, screen.findViewById<View>(id).accessibilityLiveRegion)
            }
            halfway()
            app.chat.stop()
            waitFor("the end") { !app.chat.answering }
            val answer = app.chat.turns.last().text.trim()
            val spoken = screen.text(R.id.spoken)
            assertTrue("$spoken / $answer", spoken.isNotEmpty() && answer.endsWith(spoken))
            layOut()
            fun check(view: View) {
                if (view is ImageButton && view.isShown) assertEquals(view.contentDescription, view.tooltipText)
                if (view is ViewGroup) for (i in 0 until view.childCount) check(view.getChildAt(i))
            }
            check(screen.findViewById(R.id.screen))
        }
    }

    @Test
    fun fault13aDialogSurvivesARotation() {
        Robolectric.buildActivity(SettingsActivity::class.java).setup().use { controller ->
            val rows = controller.get().findViewById<ViewGroup>(R.id.rows)
            val row = (0 until rows.childCount).map { rows.getChildAt(it) }
                .single { it.findViewById<TextView>(R.id.setting_title).text == app.getString(R.string.setting_system) }
            row.performClick()
            ShadowAlertDialog.getLatestAlertDialog().findViewById<EditText>(R.id.system_prompt).setText("Half an instr")
            controller.recreate()
            idle()
            val dialog = ShadowAlertDialog.getLatestAlertDialog()
            assertTrue(dialog.isShowing)
            assertEquals("Half an instr", dialog.findViewById<EditText>(R.id.system_prompt).text.toString())
            dialog.getButton(AlertDialog.BUTTON_POSITIVE).performClick()
            idle()
            assertEquals("Half an instr", app.settings.systemPrompt)
        }
        imported(Inputs.textModel)
        Robolectric.buildActivity(ModelsActivity::class.java).setup().use { controller ->
            idle()
            controller.get().findViewById<ViewGroup>(R.id.bundles).getChildAt(0).findViewById<View>(R.id.delete).performClick()
            controller.recreate()
            idle()
            val dialog = ShadowAlertDialog.getLatestAlertDialog()
            assertTrue(dialog.isShowing)
            dialog.getButton(AlertDialog.BUTTON_POSITIVE).performClick()
            waitFor("the deletion") { app.store.root.list().orEmpty().isEmpty() }
        }
    }

    @Test
    fun fault14settingsWaitForTheAnswer() {
        slowPhone()
        chat(imported(Inputs.chatModel)).use {
            halfway()
            val child = children().single()
            app.settings.context = 256
            app.chat.settingsChanged()
            idle()
            assertTrue("it goes on", app.chat.answering && child.isAlive)
            app.chat.stop()
            waitFor("the model with its new context") { app.chat.loaded?.context == 256 }
            assertFalse(child.isAlive)
            assertEquals("the conversation is still there", 2, app.chat.turns.size)
        }
    }

    @Test
    fun lowAScreenThatWasNeverShownIsNotCounted() {
        slowPhone()
        val bundle = imported(Inputs.chatModel)
        val gone = Robolectric.buildActivity(ChatActivity::class.java, ChatActivity.intent(app, "no-such-bundle")).setup()
        idle()
        assertTrue(gone.get().isFinishing)
        gone.close()
        chat(bundle).use {
            halfway()
            app.chat.onLowMemory()
            idle()
            assertEquals("somebody is looking", Notice.LowMemory(goesOn = false), app.chat.notice)
        }
    }

    @Test
    fun lowSendIsOffWithoutWords() {
        chat(imported(Inputs.chatModel)).use { controller ->
            val screen = controller.get()
            val send = screen.findViewById<View>(R.id.send)
            assertFalse(send.isEnabled)
            screen.findViewById<EditText>(R.id.prompt).setText("  \n ")
            assertFalse(send.isEnabled)
            screen.findViewById<EditText>(R.id.prompt).setText("Hello")
            assertTrue(send.isEnabled)
        }
    }

    @Test
    fun lowWhileAStopIsPendingSendSends() {
        slowPhone()
        chat(imported(Inputs.chatModel)).use { controller ->
            halfway()
            controller.get().press(R.id.send)
            assertEquals(Ending.STOPPED, app.chat.turns.last().ending)
            app.settings.maxNewTokens = 8
            // Again and again, before the runner has noticed any of it.
            repeat(3) {
                assertTrue(app.chat.send("And then, $it?"))
                app.chat.stop()
            }
            controller.get().findViewById<EditText>(R.id.prompt).setText("And then?")
            controller.get().press(R.id.send)
            assertEquals("And then?", app.chat.turns[app.chat.turns.lastIndex - 1].text)
            waitFor("the answer") { !app.chat.answering }
            assertEquals(Ending.LENGTH, app.chat.turns.last().ending)
            assertEquals(null, app.chat.notice)
        }
    }

    @Test
    fun lowAMessageOfMegabytesIsNotTaken() {
        val bundle = imported(Inputs.chatModel)
        chat(bundle).use { controller ->
            val screen = controller.get()
            assertFalse(app.chat.send("x".repeat(5 shl 20)))
            idle()
            assertEquals(app.getString(R.string.notice_too_long), screen.text(R.id.notice))
            assertTrue(app.chat.turns.isEmpty())
        }
        app.chat.close()
        off { app.conversations.save(Conversation(bundle.id, turns = listOf(Turn(Role.USER, "x".repeat(5 shl 20))))) }
        chat(bundle).use { controller ->
            layOut()
            val text = controller.get().findViewById<ListView>(R.id.messages).getChildAt(0).findViewById<TextView>(R.id.text).text
            assertEquals("one that is there is cut to be shown", ChatSession.MOST_CHARACTERS + 1, text.length)
        }
    }

    @Test
    fun lowNoEnglishInSwahili() {
        RuntimeEnvironment.setQualifiers("+sw")
        val english = "the prompt has 900 tokens"
        val errors = listOf(
            ModelError.BundleDamaged(english), ModelError.BundleUnreadable(english), ModelError.BadRequest(english),
            ModelError.RunnerMissing(english), ModelError.RunnerDied(1, english), ModelError.Busy("chat"),
        )
        for (error in errors) assertFalse(app.describe(error), english in app.describe(error) || "chat" in app.describe(error))
        val import = dev.mobilebundle.lm.ImportError.NotABundle(english)
        assertFalse(english in app.describe(import))
    }

    @Test
    fun lowBubblesAreMirrored() {
        fun corners(): FloatArray {
            val shape = app.getDrawable(R.drawable.bubble_user) as android.graphics.drawable.GradientDrawable
            return shape.cornerRadii!!
        }
        val leftToRight = corners()
        RuntimeEnvironment.setQualifiers("+ar-ldrtl")
        val rightToLeft = corners()
        assertEquals("bottom right to bottom left", leftToRight[4], rightToLeft[6])
        assertEquals(leftToRight[6], rightToLeft[4])
        assertTrue(leftToRight[4] < leftToRight[6])
    }

    @Test
    fun theScreenStaysOnWhileItAnswers() {
        slowPhone()
        chat(imported(Inputs.chatModel)).use { controller ->
            val screen = controller.get().findViewById<View>(R.id.screen)
            assertFalse(screen.keepScreenOn)
            halfway()
            assertTrue(screen.keepScreenOn)
            app.chat.stop()
            assertFalse(screen.keepScreenOn)
        }
    }

    @Test
    fun theLanguageIsChosenInTheAppBeforeAndSinceAndroid13() {
        val newest = Build.VERSION.SDK_INT
        try {
            for (version in listOf(26, newest)) {
                ReflectionHelpers.setStaticField(Build.VERSION::class.java, "SDK_INT", version)
                assertEquals("Settings", settings().title)
                Language.choose(settings(), "sw")
                idle()
                assertEquals("sw", Language.current(settings()))
                // What the system does of its own since Android 13, it does not do here.
                if (version < Build.VERSION_CODES.TIRAMISU) assertEquals("Mipangilio", settings().title)
                Language.choose(settings(), "")
                idle()
                assertEquals("", Language.current(settings()))
            }
        } finally {
            ReflectionHelpers.setStaticField(Build.VERSION::class.java, "SDK_INT", newest)
        }
    }

    private fun settings(): SettingsActivity = Robolectric.buildActivity(SettingsActivity::class.java).setup().get()

    @Test
    fun settingsStartWithWhatPeopleChange() {
        Robolectric.buildActivity(SettingsActivity::class.java).setup().use { controller ->
            fun titles() = controller.get().findViewById<ViewGroup>(R.id.rows).let { rows ->
                (0 until rows.childCount).map { rows.getChildAt(it).findViewById<TextView>(R.id.setting_title).text.toString() }
            }
            assertEquals(listOf("Style", "Longest answer", "Context", "Language", "Instruction", "Advanced"), titles())
            controller.get().findViewById<ViewGroup>(R.id.rows).getChildAt(5).performClick()
            assertTrue(titles().containsAll(listOf("Temperature", "Top-p", "Processor cores")))
            app.settings.style = Style.EXACT
            assertEquals(0, app.settings.temperature)
            app.settings.topK = 20
            assertEquals(null, app.settings.style)
        }
    }

    @Test
    fun contextsNameTheMemoryThatTheyTake() {
        val bundle = imported(Inputs.chatModel)
        val peak = JSONObject(File(bundle.directory, "manifest.json").readText()).getJSONObject("predicted").getLong("peak_bytes")
        chat(bundle).use {
            Robolectric.buildActivity(SettingsActivity::class.java).setup().use { controller ->
                val rows = controller.get().findViewById<ViewGroup>(R.id.rows)
                val value = rows.getChildAt(2).findViewById<TextView>(R.id.setting_value).text.toString()
                assertEquals("The model's own · up to %.1f MB of memory".format(Locale.ENGLISH, peak / 1e6), value)
            }
        }
    }

    /** The model was trained for 512 tokens. */
    @Test
    fun onlyContextsThatTheModelCanHaveAreListed() {
        app.settings.context = 4096
        chat(imported(Inputs.chatModel)).use {
            Robolectric.buildActivity(SettingsActivity::class.java).setup().use { controller ->
                val row = controller.get().findViewById<ViewGroup>(R.id.rows).getChildAt(2)
                val value = row.findViewById<TextView>(R.id.setting_value).text.toString()
                assertTrue("what it really has: $value", value.startsWith("512 tokens · up to "))
                row.performClick()
                val items = ShadowAlertDialog.getLatestAlertDialog().listView
                val listed = (0 until items.count).map { items.getItemAtPosition(it).toString() }
                assertEquals(listOf("The model's own", "256 tokens", "512 tokens"), listed.map { it.substringBefore(" · ") })
                assertTrue("$listed", listed.all { "MB of memory" in it })
                assertEquals("512 tokens is chosen", 2, items.checkedItemPosition)
            }
        }
        assertEquals("and left for models that have it", 4096, app.settings.context)
    }

    @Test
    fun largeLettersLeaveHalfOfASmallScreenToTheConversation() {
        RuntimeEnvironment.setFontScale(2f)
        RuntimeEnvironment.setQualifiers("+w320dp-h480dp-hdpi")
        chat(imported(Inputs.chatModel)).use { controller ->
            layOut()
            val screen = controller.get()
            fun share() = screen.findViewById<View>(R.id.conversation).height.toFloat() / screen.window.decorView.height
            assertTrue("${share()} of the screen", share() >= 0.5f)
            waitFor("the model") { app.chat.state is ModelState.Ready }
            app.chat.onLowMemory()
            layOut()
            val notice = screen.findViewById<TextView>(R.id.notice)
            val room = screen.findViewById<View>(R.id.notice_room)
            assertTrue("the notice is there", notice.isShown)
            assertTrue("${share()} of the screen with a notice", share() >= 0.5f)
            assertTrue("it is longer than its room: ${notice.height} in ${room.height}", notice.height > room.height)
            assertTrue("all lines are laid out", (0 until notice.lineCount).all { notice.layout.getEllipsisCount(it) == 0 })
            assertTrue(notice.layout.height <= notice.height - notice.totalPaddingTop - notice.totalPaddingBottom)
            swipeUp(room)
            assertFalse("a finger scrolls to its end", room.canScrollVertically(1))
            assertEquals("and does not open the details", null, ShadowAlertDialog.getLatestAlertDialog())
            notice.performClick()
            assertTrue("a tap does", ShadowAlertDialog.getLatestAlertDialog().isShowing)
        }
    }
}
