package dev.mobilebundle.demo.ui

import android.app.AlertDialog
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.EditText
import android.widget.FrameLayout
import android.widget.TextView
import dev.mobilebundle.demo.R
import dev.mobilebundle.demo.Settings
import dev.mobilebundle.demo.numberText
import kotlin.reflect.KMutableProperty1

/** Threads, context and sampling. Every setting is a choice of few: there is nothing to mistype. */
class SettingsActivity : ScreenActivity() {
    private class Choice(
        val title: Int,
        val help: Int?,
        val property: KMutableProperty1<Settings, Int>,
        val values: List<Int>,
        val label: (Int) -> String,
    )

    private val choices by lazy {
        listOf(
            Choice(R.string.setting_threads, R.string.setting_threads_help, Settings::threads, listOf(0, 1, 2, 3, 4)) {
                if (it == 0) getString(R.string.automatic) else "$it"
            },
            Choice(
                R.string.setting_context,
                R.string.setting_context_help,
                Settings::context,
                listOf(0, 256, 512, 1024, 2048, 4096),
            ) { if (it == 0) getString(R.string.models_own) else getString(R.string.tokens, it) },
            Choice(R.string.setting_length, null, Settings::maxNewTokens, listOf(64, 128, 256, 512, 1024)) {
                getString(R.string.tokens, it)
            },
            Choice(
                R.string.setting_temperature,
                R.string.setting_temperature_help,
                Settings::temperature,
                listOf(0, 30, 50, 70, 90, 120),
            ) { if (it == 0) getString(R.string.always_likeliest) else hundredths(it, 1) },
            Choice(R.string.setting_top_p, null, Settings::topP, listOf(50, 80, 90, 95, 100)) {
                if (it == WHOLE) getString(R.string.off) else hundredths(it, 2)
            },
            Choice(R.string.setting_top_k, null, Settings::topK, listOf(0, 20, 40, 100)) {
                if (it == 0) getString(R.string.off) else "$it"
            },
            Choice(R.string.setting_repetition, null, Settings::repetitionPenalty, listOf(100, 105, 110, 130)) {
                if (it == WHOLE) getString(R.string.off) else hundredths(it, 2)
            },
        )
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        show(R.layout.activity_settings, getString(R.string.settings))
        findViewById<View>(R.id.open_settings).visibility = View.GONE
        render()
    }

    private fun render() {
        val rows = findViewById<ViewGroup>(R.id.rows)
        rows.removeAllViews()
        for (choice in choices) {
            val value = choice.label(choice.property.get(app.settings))
            rows.addView(row(rows, choice.title, value, choice.help) { choose(choice) })
        }
        val system = app.settings.systemPrompt.ifBlank { getString(R.string.none) }
        rows.addView(row(rows, R.string.setting_system, system, R.string.setting_system_help) { editSystemPrompt() })
    }

    private fun row(parent: ViewGroup, title: Int, value: String, help: Int?, onClick: () -> Unit): View =
        layoutInflater.inflate(R.layout.row_setting, parent, false).apply {
            findViewById<TextView>(R.id.setting_title).setText(title)
            findViewById<TextView>(R.id.setting_value).text = value
            findViewById<TextView>(R.id.setting_help).apply {
                if (help == null) visibility = View.GONE else setText(help)
            }
            setOnClickListener { onClick() }
        }

    private fun choose(choice: Choice) {
        val labels = choice.values.map(choice.label).toTypedArray()
        val current = choice.values.indexOf(choice.property.get(app.settings))
        AlertDialog.Builder(this)
            .setTitle(choice.title)
            .setSingleChoiceItems(labels, current) { dialog, chosen ->
                choice.property.set(app.settings, choice.values[chosen])
                if (choice.title == R.string.setting_threads || choice.title == R.string.setting_context) app.chat.reload()
                dialog.dismiss()
                render()
            }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private fun editSystemPrompt() {
        val input = EditText(this).apply {
            setText(app.settings.systemPrompt)
            hint = getString(R.string.setting_system)
        }
        val inset = (INSET_DP * resources.displayMetrics.density).toInt()
        val frame = FrameLayout(this).apply {
            setPadding(inset, inset / 2, inset, 0)
            addView(input)
        }
        AlertDialog.Builder(this)
            .setTitle(R.string.setting_system)
            .setView(frame)
            .setNegativeButton(R.string.cancel, null)
            .setPositiveButton(R.string.ok) { _, _ ->
                app.settings.systemPrompt = input.text.toString().trim()
                render()
            }
            .show()
    }

    private fun hundredths(value: Int, decimals: Int) = numberText(value / WHOLE.toDouble(), decimals)

    private companion object {
        const val WHOLE = 100
        const val INSET_DP = 20
    }
}
