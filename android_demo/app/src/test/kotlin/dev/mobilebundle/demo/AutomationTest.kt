package dev.mobilebundle.demo

import android.content.Intent
import dev.mobilebundle.demo.ui.AutomationActivity
import java.io.File
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.Robolectric

/** What adb starts on a real phone: from a file to an answer in a file. */
class AutomationTest : AppTest() {
    private fun run(bundle: String, prompt: String): JSONObject {
        val intent = Intent(app, AutomationActivity::class.java)
            .putExtra("bundle", bundle)
            .putExtra("prompt", prompt)
            .putExtra("max_new_tokens", 8)
            .putExtra("result", "one")
        val file = File(app.filesDir, "automation/one.json")
        file.delete()
        Robolectric.buildActivity(AutomationActivity::class.java, intent).setup().use { controller ->
            waitFor("the result") { file.exists() }
            waitFor("the end, which comes after it") { controller.get().isFinishing }
        }
        return JSONObject(file.readText())
    }

    @Test
    fun importsAsksAndWritesTheResult() {
        val result = run(Inputs.textModel.path, "The history of the city")
        assertEquals(result.toString(), "done", result.getString("status"))
        assertEquals(8, result.getInt("tokens"))
        assertTrue(result.getString("text").isNotBlank())
        assertTrue(result.getLong("peak_rss_bytes") > 1_000_000)
        val again = run(result.getString("bundle"), "The history of the city")
        assertEquals(result.getString("text"), again.getString("text"))
    }

    @Test
    fun saysWhyThereIsNoAnswer() {
        val result = run("no-such-bundle", "Hello")
        assertEquals("failed", result.getString("status"))
        assertEquals("no such bundle", result.getString("error"))
    }
}
