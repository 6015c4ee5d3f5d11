package dev.mobilebundle.demo

import android.app.Activity
import android.content.ComponentCallbacks2
import android.view.View
import android.view.ViewGroup
import android.widget.EditText
import dev.mobilebundle.demo.ui.ChatActivity
import dev.mobilebundle.demo.ui.ConversationsActivity
import dev.mobilebundle.demo.ui.ModelsActivity
import dev.mobilebundle.demo.ui.SettingsActivity
import dev.mobilebundle.lm.ModelState
import java.io.File
import java.io.FilterInputStream
import java.io.InputStream
import java.util.concurrent.CopyOnWriteArrayList
import kotlin.random.Random
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.robolectric.Robolectric
import org.robolectric.android.controller.ActivityController
import org.robolectric.shadows.ShadowAlertDialog

/**
 * Sequences that nobody thought of. The seed and the number are system properties (`random.seed`, `random.imports`,
 * `random.events`), and what ran is printed.
 */
class RandomTest : ImportScreenTest() {
    /** As the system's kill of the process, for the thread that meets it. */
    private class Killed : Error("killed")

    private val seed = System.getProperty("random.seed")?.toLongOrNull() ?: 20261129L
    private val random = Random(seed)
    private val raised = CopyOnWriteArrayList<Throwable>()

    @Volatile
    private var killed = false
    private val before = Thread.getDefaultUncaughtExceptionHandler()

    private fun count(name: String, default: Int) = System.getProperty(name)?.toIntOrNull() ?: default

    @Before
    fun hearOfEverythingThatIsRaised() = Thread.setDefaultUncaughtExceptionHandler { _, e -> if (e is Killed) killed = true else raised += e }

    @After
    fun nothingWasRaised() {
        Thread.setDefaultUncaughtExceptionHandler(before)
        assertEquals("seed $seed", emptyList<Throwable>(), raised.toList())
    }

    /** Reads slowly enough to be stopped, and can die, break or end early at some byte. */
    private class Source(file: File, private val at: Long, private val end: () -> Unit) : FilterInputStream(file.inputStream()) {
        private var given = 0L

        override fun read(buffer: ByteArray, offset: Int, count: Int): Int {
            if (given >= at) end()
            return super.read(buffer, offset, minOf(count, 65_536)).also { given += maxOf(0, it) }
        }
    }

    private fun open(kill: Boolean): () -> InputStream {
        val file = listOf(Inputs.textModel, Inputs.chatModel, Inputs.textModelPacked).random(random)
        val at = random.nextLong(file.length())
        return when (random.nextInt(5)) {
            0 -> if (kill) { { Source(file, at) { throw Killed() } } } else { { file.inputStream() } }
            1 -> { { Source(file, at) { throw java.io.IOException("pulled out") } } }
            2 -> { { Source(file, at) { throw IllegalStateException("a provider's own") } } }
            else -> { { file.inputStream() } }
        }
    }

    @Test
    fun importsThatAreStoppedKilledAndRestartedLeaveNothing() {
        val sequences = count("random.imports", 40)
        repeat(sequences) { sequence ->
            var task = ImportTask(app)
            repeat(random.nextInt(1, 6)) {
                when (random.nextInt(6)) {
                    0, 1 -> task.start(picked("random-${random.nextInt()}", open(kill = true)))
                    2 -> task.stop()
                    3 -> task.retry()
                    4 -> task.discard()
                    // The old one's thread may still run, as one that Android has not ended yet.
                    5 -> { task.stop(); task = ImportTask(app) }
                }
                Thread.sleep(random.nextLong(20))
                idle()
            }
            // The app is usable: whatever state it is in, it can be given up, and the next import works.
            task.stop()
            killed = false
            var last = ImportTask(app)
            Thread.sleep(5)
            waitFor("sequence $sequence, seed $seed") {
                // It may go on with the file that kills: then the app starts once more, and does not.
                if (killed) last = ImportTask(app).also { killed = false }
                last.stop()
                last.state !is ImportState.Running
            }
            // Threads of "processes" before may still be at their end, which a kill would have spared them.
            waitFor("what is left of sequence $sequence, seed $seed") { last.discard(); leftovers().isEmpty() }
        }
        imported(Inputs.textModel)
        for (bundle in stored()) off { app.store.delete(bundle.id) }
        assertEquals("no byte", 0L, off { app.store.root.walk().filter { it.isFile }.sumOf { it.length() } })
        println("$sequences sequences of imports, seed $seed")
    }

    private fun files(vararg folders: File) = folders.flatMap { folder -> folder.walk().filter { it.isFile } }

    private fun leftovers(): List<String> {
        val whole = stored().map { it.id }.toSet()
        val record = File(app.filesDir, "import.json")
        return app.store.root.list().orEmpty().filter { it !in whole } + listOfNotNull(record.name.takeIf { record.exists() })
    }

    @Test
    fun thousandsOfEventsRaiseNothing() {
        val events = count("random.events", 1_000)
        app.settings.maxNewTokens = 64
        val bundles = listOf(imported(Inputs.chatModel), imported(Inputs.textModel))
        val random = random
        var screen: ActivityController<out Activity> = Robolectric.buildActivity(ModelsActivity::class.java).setup()
        fun go(next: ActivityController<out Activity>) {
            screen.pause().stop().destroy()
            screen = next
        }
        repeat(events) {
            when (random.nextInt(22)) {
                0 -> go(Robolectric.buildActivity(ModelsActivity::class.java).setup())
                1 -> go(Robolectric.buildActivity(ChatActivity::class.java, ChatActivity.intent(app, bundles.random(random).id)).setup())
                2 -> go(Robolectric.buildActivity(ConversationsActivity::class.java).setup())
                3 -> go(Robolectric.buildActivity(SettingsActivity::class.java).setup())
                4 -> screen.recreate()
                5 -> screen.pause().stop().start().resume()
                6 -> app.onTrimMemory(listOf(ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL, ComponentCallbacks2.TRIM_MEMORY_COMPLETE, 5, 20).random(random))
                7 -> if (app.imports.state !is ImportState.Running) app.imports.start(picked("event-${random.nextInt()}", open(kill = false)))
                8 -> app.imports.stop()
                9 -> app.imports.discard()
                10 -> children().forEach { it.destroyForcibly() }
                11 -> ShadowAlertDialog.getLatestAlertDialog()?.takeIf { it.isShowing }?.let { dialog ->
                    dialog.getButton(listOf(-1, -2).random(random))?.performClick()
                }
                12, 13 -> type(screen.get())
                14 -> app.chat.send("Number ${random.nextInt()}")
                15 -> app.chat.stop()
                else -> tap(screen.get())
            }
            if (random.nextInt(3) == 0) layOut() else idle()
        }
        screen.pause().stop().destroy()
        app.imports.stop()
        waitFor("the import") { app.imports.state !is ImportState.Running }
        // It is usable after all of it.
        chat(imported(Inputs.chatModel)).use {
            waitFor("whatever was being answered") { app.chat.stop(); !app.chat.answering && app.chat.state !is ModelState.Loading }
            app.settings.context = 0
            app.settings.maxNewTokens = 8
            app.chat.newConversation()
            assertTrue(app.chat.send("Who was he?"))
            waitFor("the answer") { !app.chat.answering }
            assertEquals(app.chat.notice.toString(), 2, app.chat.turns.size)
            assertTrue(app.chat.turns[1].toString(), app.chat.turns[1].ending in listOf(Ending.LENGTH, Ending.COMPLETE))
        }
        for (one in stored()) app.bundles.delete(one.id)
        waitFor("what is left") { settle(); stored().isEmpty() }
        app.imports.discard()
        waitFor("what is left of imports and conversations") { leftovers().isEmpty() && files(app.store.root, File(app.filesDir, "chats")).isEmpty() }
        println("$events events, seed $seed")
    }

    private fun type(activity: Activity) {
        val field = views(activity.window.decorView).filterIsInstance<EditText>().randomOrNull(random) ?: return
        field.setText(listOf("", "Hello", "مرحبا", "a\u0000b\ud800", "x".repeat(3000), "\n\n", "{{ messages }}").random(random))
    }

    /** Whatever can be touched, but what leaves the app: the pictures of the system are not to be had here. */
    private fun tap(activity: Activity) {
        if (activity.isFinishing) return
        val touchable = views(activity.window.decorView).filter { it.isShown && it.isEnabled && it.hasOnClickListeners() && it.id != R.id.pick }
        touchable.randomOrNull(random)?.performClick()
    }

    private fun views(view: View): List<View> =
        listOf(view) + if (view is ViewGroup) (0 until view.childCount).flatMap { views(view.getChildAt(it)) } else emptyList()
}
