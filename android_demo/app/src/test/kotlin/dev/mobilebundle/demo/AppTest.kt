package dev.mobilebundle.demo

import android.app.Activity
import android.app.ActivityManager
import android.content.Context
import android.net.Uri
import android.os.Looper
import android.os.SystemClock
import android.view.MotionEvent
import android.view.View
import android.widget.TextView
import dev.mobilebundle.lm.BundleImporter
import dev.mobilebundle.lm.StoredBundle
import dev.mobilebundle.demo.ui.ChatActivity
import java.io.File
import java.io.InputStream
import org.junit.After
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowStatFs

/** A phone with 2 GB of memory, of which 900 MB are free, and 4 GB of free storage. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [34], qualifiers = "w360dp-h640dp-xhdpi")
abstract class AppTest {
    protected val app get() = RuntimeEnvironment.getApplication() as DemoApplication

    @Before
    fun setUpPhone() {
        app.applicationInfo.nativeLibraryDir = Inputs.programs.path
        phone(totalBytes = 1_900_000_000, availableBytes = 900_000_000)
        disk(freeBytes = 4_000_000_000)
    }

    @After
    fun endProcesses() {
        app.chat.close()
        app.benchmark.stop()
        children().forEach { it.destroyForcibly() }
        app.disk.submit { }.get()
    }

    /** Runs what reads files where it may: on a thread of its own, waited for. */
    protected fun <T> off(work: () -> T): T {
        val task = java.util.concurrent.FutureTask(work)
        Thread(task).start()
        try {
            return task.get()
        } catch (e: java.util.concurrent.ExecutionException) {
            throw e.cause!!
        }
    }

    /**
     * Has the system let the runner run for about a tenth of the time, as a small model on this machine is done before a
     * finger could move. It is the same program: a shell starts its own brake, then becomes the program.
     */
    protected fun slowPhone() {
        val directory = File(app.filesDir, "slow").apply { mkdirs() }
        File(directory, "libmobile_run.so").apply {
            writeText(
                """
                #!/bin/sh
                (while kill -STOP ${'$'}${'$'}; do sleep 0.02; kill -CONT ${'$'}${'$'}; sleep 0.001; done) </dev/null >/dev/null 2>&1 &
                exec ${Inputs.programs}/libmobile_run.so "${'$'}@"
                """.trimIndent() + "\n",
            )
            setExecutable(true)
        }
        app.applicationInfo.nativeLibraryDir = directory.path
    }

    protected fun phone(totalBytes: Long, availableBytes: Long) {
        val info = ActivityManager.MemoryInfo().apply {
            totalMem = totalBytes
            availMem = availableBytes
        }
        shadowOf(app.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).setMemoryInfo(info)
    }

    protected fun disk(freeBytes: Long) {
        val blocks = (freeBytes / ShadowStatFs.BLOCK_SIZE).toInt()
        val folders = listOf(app.store.root) + listOf("downloads", "chats").map { File(app.filesDir, it) }
        for (folder in folders) ShadowStatFs.registerStats(folder.path, blocks, blocks, blocks)
    }

    /** Imports without a screen. */
    protected fun imported(zip: File): StoredBundle = import(zip.inputStream()).also {
        app.bundles.refresh()
        waitFor("the list") { app.bundles.all.orEmpty().any { known -> known.id == it.id } }
    }

    /** ImportError as the importer throws it. */
    protected fun import(source: InputStream, stopped: () -> Boolean = { false }): StoredBundle =
        off { BundleImporter(app.store, app.memory(), app.program, stopped = stopped).import(source) }

    protected fun stored(): List<StoredBundle> = off { app.store.list() }

    /** Waits until all that was asked of the disk is done, and what it answered has come. */
    protected fun settle() {
        app.disk.submit { }.get()
        idle()
    }

    /** What the system's file picker would hand over. */
    protected fun picked(name: String, open: () -> InputStream): Uri {
        val uri = Uri.parse("content://documents/$name")
        shadowOf(app.contentResolver).registerInputStreamSupplier(uri, open)
        return uri
    }

    /** The chat screen, once its last conversation is read. */
    protected fun chat(bundle: StoredBundle): ActivityController<ChatActivity> =
        Robolectric.buildActivity(ChatActivity::class.java, ChatActivity.intent(app, bundle.id)).setup().also {
            waitFor("the conversation") { app.chat.bundle?.id == bundle.id && !app.chat.isOpening }
        }

    protected fun children(): List<ProcessHandle> = ProcessHandle.current().children().toList()

    /** The child and its reader run in real time, the main looper only when it is told to. */
    protected fun waitFor(what: String, condition: () -> Boolean) {
        val deadline = System.nanoTime() + 60_000_000_000
        while (true) {
            idle()
            if (condition()) return
            assertTrue("timed out waiting for $what", System.nanoTime() < deadline)
            Thread.sleep(5)
        }
    }

    protected fun idle() = shadowOf(Looper.getMainLooper()).idle()

    /** Long enough for the frames in which what has changed is laid out. */
    protected fun layOut() = shadowOf(Looper.getMainLooper()).idleFor(java.time.Duration.ofMillis(200))

    /** A finger on the view. */
    protected fun swipeDown(view: View) = swipe(view, 100f, 60)

    protected fun swipeUp(view: View) = swipe(view, view.height - 10f, -60)

    private fun swipe(view: View, from: Float, step: Int) {
        val down = SystemClock.uptimeMillis()
        for (i in 0..10) {
            val action = if (i == 0) MotionEvent.ACTION_DOWN else if (i == 10) MotionEvent.ACTION_UP else MotionEvent.ACTION_MOVE
            val event = MotionEvent.obtain(down, down + i * 20L, action, 100f, from + i * step, 0)
            view.dispatchTouchEvent(event)
            event.recycle()
            shadowOf(Looper.getMainLooper()).idleFor(java.time.Duration.ofMillis(20))
        }
        layOut()
    }

    protected fun chooserText(activity: Activity): String {
        val chooser = shadowOf(activity).nextStartedActivity
        @Suppress("DEPRECATION")
        val shared = chooser.getParcelableExtra<android.content.Intent>(android.content.Intent.EXTRA_INTENT)!!
        return shared.getStringExtra(android.content.Intent.EXTRA_TEXT)!!
    }

    protected fun Activity.text(id: Int) = findViewById<TextView>(id).text.toString()

    protected fun Activity.isShown(id: Int) = findViewById<View>(id).visibility == View.VISIBLE

    protected fun Activity.press(id: Int) {
        assertTrue("button is shown and enabled", findViewById<View>(id).let { it.isShown && it.isEnabled })
        findViewById<View>(id).performClick()
        idle()
    }
}
