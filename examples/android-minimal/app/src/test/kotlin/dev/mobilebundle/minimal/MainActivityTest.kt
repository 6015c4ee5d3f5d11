package dev.mobilebundle.minimal

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.EditText
import android.widget.TextView
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowStatFs

/** The example with what the AAR brings and nothing else: its classes, and its runner as the child process. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], manifest = Config.NONE)
class MainActivityTest {
    private val app = RuntimeEnvironment.getApplication()

    @Before
    fun setUpPhone() {
        // On a phone the installer unpacks it to there.
        app.applicationInfo.nativeLibraryDir = System.getProperty("aar.programs")
        ShadowStatFs.registerStats(File(app.filesDir, "bundles").path, 1_000_000, 1_000_000, 1_000_000)
    }

    private fun ViewGroup.all(): List<View> =
        (0 until childCount).flatMap { i -> getChildAt(i).let { if (it is ViewGroup) it.all() else listOf(it) } }

    private fun Activity.views() = (window.decorView as ViewGroup).all()

    private fun Activity.press(label: String) = views().first { it is Button && it.text == label }.performClick()

    private fun Activity.shown() = views().first { it is TextView && it !is Button && it !is EditText && it.text.isNotEmpty() }
        .let { (it as TextView).text.toString() }

    private fun waitFor(what: String, condition: () -> Boolean) {
        val deadline = System.nanoTime() + 60_000_000_000
        while (!condition()) {
            shadowOf(Looper.getMainLooper()).idle()
            assertTrue("timed out waiting for $what", System.nanoTime() < deadline)
            Thread.sleep(5)
        }
    }

    @Test
    fun importsAModelAndAnswers() {
        val file = Uri.parse("content://documents/model.mbundle.zip")
        shadowOf(app.contentResolver).registerInputStream(file, File(System.getProperty("model")).inputStream())
        val screen = Robolectric.buildActivity(MainActivity::class.java).setup()
        val activity = screen.get()
        waitFor("the first words") { "Import a model first." in activity.shown() }
        activity.press("Import a model")
        shadowOf(activity).receiveResult(shadowOf(activity).nextStartedActivity, Activity.RESULT_OK, Intent().setData(file))
        waitFor("the model") { "LoadedModel" in activity.shown() }
        activity.views().filterIsInstance<EditText>().single().setText("What is water?")
        activity.press("Send")
        waitFor("the answer") { "tokens)" in activity.shown() }
        val answer = activity.shown().substringAfter("What is water?").substringBeforeLast("(").trim()
        assertTrue(answer, answer.length > 20)
        activity.press("Send")
        activity.press("Stop")
        screen.destroy()
        waitFor("the runner's end") { ProcessHandle.current().children().noneMatch { it.isAlive } }
        assertEquals(1, File(app.filesDir, "bundles").listFiles()!!.size)
    }
}
