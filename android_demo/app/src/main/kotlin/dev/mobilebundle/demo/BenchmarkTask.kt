package dev.mobilebundle.demo

import android.os.Build
import dev.mobilebundle.lm.Benchmark
import dev.mobilebundle.lm.BenchmarkResult
import dev.mobilebundle.lm.ModelError
import dev.mobilebundle.lm.StoredBundle
import java.io.Closeable
import kotlin.concurrent.thread
import org.json.JSONArray
import org.json.JSONObject

/** The benchmark that is running, or the last one. */
class BenchmarkTask(private val app: DemoApplication) {
    private val observers = Observers()

    @Volatile
    private var stopped = false

    var bundle: StoredBundle? = null
        private set
    var running = false
        private set
    var error: ModelError? = null
        private set
    var results: List<BenchmarkResult> = emptyList()
        private set

    /** What is shared: the runner's own JSON, with what it was measured on. null until there is something. */
    var json: JSONObject? = null
        private set

    fun observe(observer: () -> Unit): Closeable = observers.add(observer)

    /** Forgets the results of another bundle. */
    fun show(wanted: StoredBundle) {
        if (running || bundle?.directory == wanted.directory) return
        bundle = wanted
        results = emptyList()
        json = null
        error = null
    }

    /** The chat's model is closed first: there is memory for one. */
    fun run() {
        val measured = bundle ?: return
        if (running) return
        app.chat.close()
        running = true
        stopped = false
        results = emptyList()
        json = null
        error = null
        changed()
        val benchmark = Benchmark(app.program, measured.directory, app.settings.threads.takeIf { it > 0 })
        thread(name = "benchmark") {
            val failure = benchmark.run({ stopped }) { result ->
                app.main.execute {
                    results = results + result
                    changed()
                }
            }
            app.main.execute {
                running = false
                error = failure.takeIf { !stopped }
                if (failure == null) json = describe(measured, benchmark.json)
                changed()
            }
        }
    }

    fun stop() {
        stopped = true
    }

    private fun describe(measured: StoredBundle, tests: JSONArray) = JSONObject()
        .put("model", measured.manifest.name)
        .put("recipe", measured.manifest.recipe)
        .put("bytes", measured.manifest.bytes)
        .put("device", "${Build.MANUFACTURER} ${Build.MODEL}")
        .put("abi", Build.SUPPORTED_ABIS.firstOrNull().orEmpty())
        .put("android", Build.VERSION.RELEASE)
        .put("memory_bytes", app.memory().totalBytes)
        .put("tests", tests)

    private fun changed() = observers.tell()
}
