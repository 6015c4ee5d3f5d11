package dev.mobilebundle.lm

import java.io.File
import java.util.function.Consumer
import org.json.JSONArray
import org.json.JSONObject

/** One test of a benchmark: reading a prompt ("pp256") or writing ("tg64"), every repetition. */
data class BenchmarkResult(
    val test: String,
    val threads: Int,
    val tokensPerSecond: List<Double>,
    val loadSeconds: Double,
    val firstTokenSeconds: Double,
    val memory: ProcessMemory,
)

/**
 * Measures a bundle with `mobile-run bench`, each test in a process of its own. Call it on a thread of its own; no model may
 * be open meanwhile.
 */
class Benchmark @JvmOverloads constructor(private val program: File, private val bundle: File, private val threads: Int? = null) {
    /** What the runner wrote, one object a test. */
    val json = JSONArray()

    /** The results in order, or why there are none; [stopped] is asked now and then, and ends it. */
    fun run(stopped: () -> Boolean, onResult: Consumer<BenchmarkResult>): ModelError? {
        ModelOwner.take(this, "benchmark")?.let { return ModelError.Busy(it) }
        try {
            for (test in TESTS) {
                val options = threads?.let { listOf("--threads", "$it") }.orEmpty()
                runOnce(program, listOf("bench", bundle.path, "--json") + test + options, stopped) { event ->
                    if (event is RunnerEvent.Other && event.name == "bench") {
                        json.put(event.json)
                        onResult.accept(result(event.json))
                    }
                }?.let { return it }
            }
            return null
        } finally {
            ModelOwner.give(this)
        }
    }

    private fun result(json: JSONObject): BenchmarkResult {
        val rates = json.getJSONArray("tokens_per_second")
        return BenchmarkResult(
            test = json.getString("test"),
            threads = json.getInt("threads"),
            tokensPerSecond = (0 until rates.length()).map { rates.getDouble(it) },
            loadSeconds = json.getDouble("load_seconds"),
            firstTokenSeconds = json.getDouble("first_token_seconds"),
            memory = RunnerEvent.memory(json.getJSONObject("memory")),
        )
    }

    private companion object {
        val TESTS = listOf(listOf("-p", "128", "-r", "3"), listOf("-n", "64", "-r", "3"))
    }
}
