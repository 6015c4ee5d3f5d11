package dev.mobilebundle.demo

import android.Manifest
import android.app.Activity
import android.app.Dialog
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.view.View
import android.view.ViewGroup
import android.widget.EditText
import android.widget.ImageButton
import android.widget.TextView
import dev.mobilebundle.demo.ui.BenchmarkActivity
import dev.mobilebundle.demo.ui.ConversationsActivity
import dev.mobilebundle.demo.ui.ModelsActivity
import dev.mobilebundle.demo.ui.SettingsActivity
import dev.mobilebundle.lm.ImportError
import dev.mobilebundle.lm.ModelState
import dev.mobilebundle.lm.Role
import java.io.File
import java.io.FilterInputStream
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test
import org.robolectric.Robolectric
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.shadows.ShadowAlertDialog

/**
 * Pictures of every screen, in both themes and languages, on a small screen and with large letters; and what can be checked
 * of them by program: nothing that can be touched is too small or without a label, nothing is cut off at the sides.
 */
class ScreenshotTest : AppTest() {
    private data class Look(val name: String, val qualifiers: String, val fontScale: Float = 1f)

    private val looks = listOf(
        Look("light-en", "en-w360dp-h640dp-notnight-hdpi"),
        Look("dark-en", "en-w360dp-h640dp-night-hdpi"),
        Look("light-sw", "sw-w360dp-h640dp-notnight-hdpi"),
        Look("dark-sw", "sw-w360dp-h640dp-night-hdpi"),
        Look("small-en", "en-w320dp-h480dp-notnight-hdpi", 2f),
        Look("small-sw", "sw-w320dp-h480dp-night-hdpi", 2f),
    )

    private val bothThemesAndLanguages = looks.take(4)

    private fun inEveryLook(screen: String, show: (Look) -> Unit) = inLooks(looks, screen, show)

    private fun inLooks(wanted: List<Look>, screen: String, show: (Look) -> Unit) {
        for (look in wanted) {
            RuntimeEnvironment.setFontScale(look.fontScale)
            RuntimeEnvironment.setQualifiers("+${look.qualifiers}")
            current = "$screen-${look.name}"
            show(look)
        }
    }

    private var current = ""

    private fun take(activity: Activity, dialog: Dialog? = null) {
        layOut()
        val view = activity.window.decorView
        val bitmap = Bitmap.createBitmap(view.width, view.height, Bitmap.Config.ARGB_8888)
        val canvas = Canvas(bitmap)
        view.draw(canvas)
        dialog?.window?.decorView?.let { above ->
            canvas.drawColor(Color.argb(150, 0, 0, 0)) // as the system dims what is behind
            canvas.translate((view.width - above.width) / 2f, (view.height - above.height) / 2f)
            above.draw(canvas)
        }
        val file = File(System.getProperty("screenshot.dir")!!, "app-$current.png")
        file.parentFile!!.mkdirs()
        file.writeBytes(PalettePng.encode(bitmap))
        assertTrue(file.length() > 3_000)
        check(activity.findViewById(R.id.screen))
        val conversation = activity.findViewById<View>(R.id.messages) ?: return
        if (activity.resources.configuration.fontScale == 2f) {
            assertTrue("$current: ${conversation.height} of ${view.height} for the conversation", 2 * conversation.height >= view.height)
        }
    }

    /** What TalkBack, large letters and narrow screens need. */
    private fun check(view: View) {
        if (view.visibility != View.VISIBLE || view.id == R.id.spoken) return
        val what = "$current: ${view.javaClass.simpleName} ${(view as? TextView)?.text ?: view.contentDescription}"
        val density = view.resources.displayMetrics.density
        if (view.isClickable && view !is EditText && view.id != R.id.text) {
            assertTrue("$what can be hit: ${view.width / density} x ${view.height / density}", view.height >= 48 * density && view.width >= 48 * density)
        }
        if (view is ImageButton) assertTrue("$what has a label", !view.contentDescription.isNullOrBlank())
        val parent = view.parent as? ViewGroup
        if (parent != null && parent.width > 0) assertTrue("$what is inside: ${view.left}..${view.right} of ${parent.width}", view.left >= 0 && view.right <= parent.width)
        if (view is TextView && view.layout != null && view.text.isNotEmpty()) {
            val lines = view.layout
            val broken = (0 until lines.lineCount - 1).map { lines.getLineEnd(it) }.find { view.text[it - 1].isLetter() && view.text[it].isLetter() }
            assertTrue("$what is not broken within a word", broken == null || view.id !in listOf(R.id.title, R.id.result_rate))
            val ellipsized = (0 until lines.lineCount).any { lines.getEllipsisCount(it) > 0 }
            assertTrue("$what is not cut off", !ellipsized || view.id == R.id.title)
            val room = view.height - view.totalPaddingTop - view.totalPaddingBottom
            assertTrue("$what has room for its lines: ${lines.height} in $room", lines.height <= room + 1 || view.id in listOf(R.id.prompt, R.id.title))
        }
        if (view is ViewGroup) for (i in 0 until view.childCount) check(view.getChildAt(i))
    }

    @Test
    fun models() {
        inEveryLook("models-empty") {
            Robolectric.buildActivity(ModelsActivity::class.java).setup().use { controller ->
                waitFor("the list") { controller.get().findViewById<View>(R.id.empty).isShown }
                take(controller.get())
            }
        }
        imported(Inputs.textModel)
        val large = File(imported(Inputs.chatModel).directory, "manifest.json")
        large.writeText(large.readText().replace(Regex("\"peak_bytes\": \\d+"), "\"peak_bytes\": 1400000000"))
        app.bundles.refresh()
        waitFor("the list") { app.bundles.all!!.any { it.manifest.peakBytes() == 1_400_000_000L } }
        inEveryLook("models") {
            Robolectric.buildActivity(ModelsActivity::class.java).setup().use { take(it.get()) }
        }
    }

    @Test
    fun importing() {
        inEveryLook("import") {
            Robolectric.buildActivity(ModelsActivity::class.java).setup().use { controller ->
                val halfway = java.util.concurrent.CountDownLatch(1)
                val uri = picked("wiki-${it.name}") { Waiting(Inputs.textModel, halfway) }
                app.imports.start(uri)
                waitFor("half of it") { (app.imports.state as? ImportState.Running)?.progress.let { p -> p != null && p.doneBytes > 1_000_000 } }
                take(controller.get())
                app.imports.stop()
                halfway.countDown()
                waitFor("the stop") { app.imports.state is ImportState.Failed }
                assertTrue((app.imports.state as ImportState.Failed).error is ImportError.Stopped)
                app.imports.discard()
            }
        }
        disk(freeBytes = 30_000_000)
        inEveryLook("import-full-disk") {
            app.imports.start(picked("wiki-full-${it.name}") { Inputs.textModel.inputStream() })
            waitFor("the refusal") { app.imports.state is ImportState.Failed }
            Robolectric.buildActivity(ModelsActivity::class.java).setup().use { take(it.get()) }
            app.imports.discard()
        }
    }

    /** Holds the reader up after a while, until it is let go. */
    private class Waiting(file: File, private val go: java.util.concurrent.CountDownLatch) : FilterInputStream(file.inputStream()) {
        private var given = 0

        override fun read(buffer: ByteArray, offset: Int, count: Int): Int {
            // Long enough for what was copied to be told, which it is ten times a second.
            if (given in 1_200_000..1_500_000) Thread.sleep(150)
            if (given > 1_600_000) go.await()
            return super.read(buffer, offset, count).also { given += it }
        }
    }

    @Test
    fun chat() {
        app.settings.temperature = 0
        app.settings.maxNewTokens = 48
        val bundle = imported(Inputs.chatModel)
        inEveryLook("chat-empty") {
            chat(bundle).use { controller ->
                waitFor("the model") { app.chat.state is ModelState.Ready }
                take(controller.get())
            }
        }
        chat(bundle).use {
            app.chat.send("What is the capital of the province?")
            waitFor("the answer") { !app.chat.answering }
            app.chat.send("And its history?")
            waitFor("the answer") { !app.chat.answering }
        }
        inEveryLook("chat") { chat(bundle).use { take(it.get()) } }
        app.settings.maxNewTokens = 400
        inEveryLook("chat-stopped") {
            chat(bundle).use { controller ->
                val memory = app.chat.observe { if (app.chat.turns.last().text.length > 100) app.chat.onLowMemory() }
                app.chat.regenerate()
                waitFor("the end of the answer") { app.chat.state is ModelState.Released }
                memory.close()
                take(controller.get())
            }
            app.chat.close()
        }
    }

    /**
     * What a real model says, where `make screenshots` has built one: its answers in every look, sideways, above a keyboard
     * (which leaves so much of the screen), while it writes, with a dialog, and when memory is tight.
     */
    @Test
    fun realModel() {
        assumeTrue("there is no real model", Inputs.realModel.isFile)
        app.settings.style = Style.EXACT
        app.settings.maxNewTokens = 200
        val bundle = imported(Inputs.realModel)
        chat(bundle).use {
            for (question in listOf("Give me three tips for drying maize.", "Write a Python function that adds two numbers.")) {
                app.chat.send(question)
                waitFor("the answer") { !app.chat.answering }
            }
        }
        inEveryLook("real-chat") { chat(bundle).use { take(it.get()) } }
        for ((state, room) in listOf("landscape" to "w640dp-h360dp-land", "keyboard" to "w360dp-h340dp-port")) {
            inLooks(bothThemesAndLanguages.map { Look("$state-${it.name}", it.qualifiers.replace("w360dp-h640dp", room)) }, "real-chat") {
                chat(bundle).use { take(it.get()) }
            }
        }
        inLooks(bothThemesAndLanguages, "figures") {
            chat(bundle).use { controller ->
                controller.get().findViewById<View>(R.id.status_row).performClick()
                take(controller.get(), ShadowAlertDialog.getLatestAlertDialog())
            }
        }
        app.chat.close()
        slowPhone()
        inLooks(bothThemesAndLanguages, "writing") {
            chat(bundle).use { controller ->
                app.chat.newConversation()
                app.chat.send("What is the capital of Kenya, and what is it known for?")
                waitFor("some of it") { app.chat.turns.last().text.length > 60 }
                take(controller.get())
                app.chat.close()
            }
        }
        phone(totalBytes = 1_900_000_000, availableBytes = 90_000_000)
        inLooks(bothThemesAndLanguages, "models-tight") {
            Robolectric.buildActivity(ModelsActivity::class.java).setup().use { take(it.get()) }
        }
    }

    @Test
    fun dialogs() {
        fun dialog() = ShadowAlertDialog.getLatestAlertDialog()
        val bundle = imported(Inputs.chatModel)
        inLooks(bothThemesAndLanguages, "dialog-delete") {
            Robolectric.buildActivity(ModelsActivity::class.java).setup().use { controller ->
                controller.get().findViewById<ViewGroup>(R.id.bundles).getChildAt(0).findViewById<View>(R.id.delete).performClick()
                take(controller.get(), dialog())
            }
        }
        inLooks(bothThemesAndLanguages, "dialog-open-with") {
            val handed = Intent(Intent.ACTION_VIEW).setData(picked("model.mbundle.zip") { Inputs.textModel.inputStream() })
            Robolectric.buildActivity(ModelsActivity::class.java, handed).setup().use { take(it.get(), dialog()) }
        }
        chat(bundle).use {
            inLooks(bothThemesAndLanguages, "dialog-context") {
                Robolectric.buildActivity(SettingsActivity::class.java).setup().use { controller ->
                    controller.get().findViewById<ViewGroup>(R.id.rows).getChildAt(2).performClick()
                    take(controller.get(), dialog())
                }
            }
        }
        shadowOf(app).grantPermissions(Manifest.permission.INTERNET)
        inLooks(bothThemesAndLanguages, "dialog-download") {
            Robolectric.buildActivity(ModelsActivity::class.java).setup().use { controller ->
                controller.get().findViewById<View>(R.id.download).performClick()
                take(controller.get(), dialog())
            }
        }
    }

    /** From right to left: the words are a test's, as the app has no Arabic and small models hardly any. */
    @Test
    fun rightToLeft() {
        val bundle = imported(Inputs.chatModel)
        val answer = "## الماء\nالماء **ضروري** للحياة:\n\n1. نشربه.\n2. نسقي به الزرع.\n\n```\nwater = 1\n```\nIt is called `H2O`."
        off {
            val turns = listOf(Turn(Role.USER, "ما هو الماء؟"), Turn(Role.ASSISTANT, answer, Ending.COMPLETE))
            app.conversations.save(Conversation(bundle.id, turns = turns))
        }
        inLooks(listOf(Look("light", "ar-ldrtl-w360dp-h640dp-port-notnight-hdpi"), Look("small", "ar-ldrtl-w320dp-h480dp-port-night-hdpi", 2f)), "rtl") {
            chat(bundle).use { controller ->
                waitFor("the model") { app.chat.state is ModelState.Ready }
                take(controller.get())
            }
        }
    }

    @Test
    fun conversations() {
        app.settings.temperature = 0
        app.settings.maxNewTokens = 12
        chat(imported(Inputs.chatModel)).use {
            for (question in listOf("What is the capital of the province?", "Who built the bridge over the river, and when was it finished?")) {
                app.chat.newConversation()
                app.chat.send(question)
                waitFor("the answer") { !app.chat.answering }
            }
            inEveryLook("conversations") {
                Robolectric.buildActivity(ConversationsActivity::class.java).setup().use { controller ->
                    settle()
                    take(controller.get())
                }
            }
        }
    }

    @Test
    fun settings() {
        inEveryLook("settings") {
            Robolectric.buildActivity(SettingsActivity::class.java).setup().use { take(it.get()) }
        }
        inEveryLook("settings-advanced") {
            Robolectric.buildActivity(SettingsActivity::class.java).setup().use { controller ->
                val rows = controller.get().findViewById<ViewGroup>(R.id.rows)
                rows.getChildAt(rows.childCount - 1).performClick()
                take(controller.get())
            }
        }
    }

    @Test
    fun benchmark() {
        val bundle = imported(Inputs.textModelPacked)
        app.benchmark.show(bundle)
        app.benchmark.run()
        waitFor("the benchmark") { !app.benchmark.running }
        inEveryLook("benchmark") {
            val intent = BenchmarkActivity.intent(app, bundle.id)
            Robolectric.buildActivity(BenchmarkActivity::class.java, intent).setup().use { take(it.get()) }
        }
    }
}
