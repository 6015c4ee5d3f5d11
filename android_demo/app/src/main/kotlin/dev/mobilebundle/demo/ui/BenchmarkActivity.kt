package dev.mobilebundle.demo.ui

import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.TextView
import dev.mobilebundle.demo.R
import dev.mobilebundle.demo.byteText
import dev.mobilebundle.demo.describe
import dev.mobilebundle.demo.numberText
import dev.mobilebundle.lm.BenchmarkResult
import dev.mobilebundle.lm.StoredBundle
import kotlin.math.sqrt

/** Measures a model on this phone, and shares what the runner wrote. */
class BenchmarkActivity : BundleActivity() {
    private val task get() = app.benchmark

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        show(R.layout.activity_benchmark, getString(R.string.benchmark))
        findViewById<View>(R.id.run).setOnClickListener { if (task.running) task.stop() else task.run() }
        findViewById<View>(R.id.share).setOnClickListener {
            task.json?.let { share(it.toString(2), R.string.share_results) }
        }
    }

    override fun enter(bundle: StoredBundle) {
        task.show(bundle)
        watch(task.observe { render() })
        render()
    }

    private fun render() {
        findViewById<TextView>(R.id.model).text = task.bundle?.manifest?.name
        val results = findViewById<ViewGroup>(R.id.results)
        results.removeAllViews()
        task.results.forEach { results.addView(card(it, results)) }
        findViewById<TextView>(R.id.benchmark_status).setTextIfChanged(
            when {
                task.running -> getString(R.string.benchmark_running)
                task.error != null -> task.error?.let { describe(it) }.orEmpty()
                task.json != null -> getString(R.string.benchmark_done)
                else -> ""
            },
        )
        findViewById<View>(R.id.screen).keepScreenOn = task.running
        findViewById<TextView>(R.id.run).setText(if (task.running) R.string.stop else R.string.run_benchmark)
        findViewById<View>(R.id.share).visibility = if (task.json != null) View.VISIBLE else View.GONE
    }

    private fun card(result: BenchmarkResult, parent: ViewGroup): View =
        layoutInflater.inflate(R.layout.card_result, parent, false).apply {
            val kind = if (result.test.startsWith("pp")) R.string.reading else R.string.writing
            findViewById<TextView>(R.id.result_title).text = getString(kind, result.test, result.threads)
            findViewById<TextView>(R.id.result_rate).text = rate(result.tokensPerSecond)
            findViewById<TextView>(R.id.result_facts).text = getString(
                R.string.result_facts,
                numberText(result.loadSeconds, 2),
                numberText(result.firstTokenSeconds, 2),
                byteText(result.memory.peakBytes),
                byteText(result.memory.anonymousBytes),
                result.memory.majorFaults,
            )
        }

    private fun rate(values: List<Double>): String {
        val mean = values.average()
        val deviation = sqrt(values.sumOf { (it - mean) * (it - mean) } / maxOf(1, values.size - 1))
        return getString(R.string.rate, numberText(mean, 1), numberText(deviation, 1))
    }

    companion object {
        /** The benchmark of a bundle of the store. */
        fun intent(context: Context, bundleId: String): Intent =
            BundleActivity.intent(context, BenchmarkActivity::class.java, bundleId)
    }
}
