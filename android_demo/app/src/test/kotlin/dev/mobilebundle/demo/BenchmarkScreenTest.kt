package dev.mobilebundle.demo

import android.view.ViewGroup
import dev.mobilebundle.demo.ui.BenchmarkActivity
import dev.mobilebundle.lm.Benchmark
import dev.mobilebundle.lm.ModelError
import dev.mobilebundle.lm.ModelState
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.Robolectric

/** The benchmark with the real runner, and what it shares. */
class BenchmarkScreenTest : AppTest() {
    @Test
    fun measuresAndShares() {
        val bundle = imported(Inputs.textModelPacked)
        val intent = BenchmarkActivity.intent(app, bundle.id)
        Robolectric.buildActivity(BenchmarkActivity::class.java, intent).setup().use { controller ->
            val screen = controller.get()
            screen.press(R.id.run)
            assertEquals(app.getString(R.string.stop), screen.text(R.id.run))
            waitFor("the benchmark") { !app.benchmark.running }
            idle()
            assertEquals(app.getString(R.string.benchmark_done), screen.text(R.id.benchmark_status))
            assertEquals(2, screen.findViewById<ViewGroup>(R.id.results).childCount)
            screen.press(R.id.share)
            val json = JSONObject(chooserText(screen))
            assertEquals("wiki-6m", json.getString("model"))
            val tests = json.getJSONArray("tests")
            assertEquals(listOf("pp128", "tg64"), (0 until tests.length()).map { tests.getJSONObject(it).getString("test") })
            assertTrue(tests.getJSONObject(1).getJSONObject("memory").getLong("peak_rss_bytes") > 1_000_000)
        }
    }

    @Test
    fun oneOwnerAtATime() {
        val bundle = imported(Inputs.textModelPacked)
        chat(bundle).use {
            waitFor("the model") { app.chat.state is ModelState.Ready }
            val refused = Benchmark(app.program, bundle.directory).run({ false }) {}
            assertEquals("chat", (refused as ModelError.Busy).owner)
        }
    }
}
