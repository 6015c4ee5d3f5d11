package dev.mobilebundle.demo.ui

import android.app.AlertDialog
import android.app.Dialog
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.TextView
import dev.mobilebundle.demo.Language
import dev.mobilebundle.demo.R
import dev.mobilebundle.demo.Settings
import dev.mobilebundle.demo.Style
import dev.mobilebundle.demo.byteText
import dev.mobilebundle.demo.numberText
import kotlin.reflect.KMutableProperty1

/**
 * What most people change first; sampling and processor cores under "Advanced". Every setting is a choice of few: there is
 * nothing to mistype.
 */
class SettingsActivity : ScreenActivity() {
    private class Choice(val title: Int, val help: Int?, val labels: List<String>, val current: () -> Int, val choose: (Int) -> Unit)

    private val styles = listOf(Style.EXACT, Style.BALANCED, Style.VARIED)

    /** 0: the model's own. Of the open model only what it can have; whoever chose more has its longest. */
    private val contexts: List<Int> by lazy {
        val sizes = listOf(256, 512, 1024, 2048, 4096)
        listOf(0) + sizes.map { it.coerceAtMost(longest) }.distinct()
    }
    private val longest by lazy { app.chat.bundle?.manifest?.longestContext ?: Int.MAX_VALUE }
    private var advanced = false

    private val simple by lazy {
        listOf(
            Choice(
                R.string.setting_style,
                R.string.setting_style_help,
                listOf(getString(R.string.style_exact), getString(R.string.style_balanced), getString(R.string.style_varied)),
                { styles.indexOf(app.settings.style) },
                { app.settings.style = styles[it] },
            ),
            number(R.string.setting_length, null, Settings::maxNewTokens, listOf(64, 128, 256, 512, 1024), {
                getString(R.string.tokens, it)
            }),
            number(
                R.string.setting_context,
                R.string.setting_context_help,
                Settings::context,
                contexts,
                ::contextText,
                current = { it.coerceAtMost(longest) },
            ) { app.chat.settingsChanged() },
            Choice(
                R.string.setting_language,
                null,
                listOf(getString(R.string.language_phone), "English", "Kiswahili"),
                { Language.CHOICES.indexOf(Language.current(this)) },
                { Language.choose(this, Language.CHOICES[it]) },
            ),
        )
    }

    private val expert by lazy {
        listOf(
            number(R.string.setting_threads, R.string.setting_threads_help, Settings::threads, listOf(0, 1, 2, 3, 4), {
                if (it == 0) getString(R.string.automatic) else "$it"
            }) { app.chat.settingsChanged() },
            number(
                R.string.setting_temperature,
                R.string.setting_temperature_help,
                Settings::temperature,
                listOf(0, 30, 50, 70, 90, 100, 120),
                { if (it == 0) getString(R.string.always_likeliest) else hundredths(it, 1) },
            ),
            number(R.string.setting_top_p, null, Settings::topP, listOf(50, 80, 90, 95, 100), {
                if (it == WHOLE) getString(R.string.off) else hundredths(it, 2)
            }),
            number(R.string.setting_top_k, null, Settings::topK, listOf(0, 20, 40, 100), {
                if (it == 0) getString(R.string.off) else "$it"
            }),
            number(R.string.setting_repetition, null, Settings::repetitionPenalty, listOf(100, 105, 110, 130), {
                if (it == WHOLE) getString(R.string.off) else hundredths(it, 2)
            }),
        )
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        show(R.layout.activity_settings, getString(R.string.settings))
        findViewById<View>(R.id.open_settings).visibility = View.GONE
        advanced = savedInstanceState?.getBoolean(ADVANCED) ?: false
        render()
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putBoolean(ADVANCED, advanced)
    }

    private fun number(
        title: Int,
        help: Int?,
        property: KMutableProperty1<Settings, Int>,
        values: List<Int>,
        label: (Int) -> String,
        current: (Int) -> Int = { it },
        changed: () -> Unit = {},
    ) = Choice(title, help, values.map(label), { values.indexOf(current(property.get(app.settings))) }) {
        property.set(app.settings, values[it])
        changed()
    }

    /** With the memory that the open model needs for it. */
    private fun contextText(tokens: Int): String {
        val name = if (tokens == 0) getString(R.string.models_own) else getString(R.string.tokens, tokens)
        val manifest = app.chat.bundle?.manifest ?: return name
        return getString(R.string.context_memory, name, byteText(manifest.peakBytes(tokens.takeIf { it > 0 })))
    }

    private fun render() {
        val rows = findViewById<ViewGroup>(R.id.rows)
        rows.removeAllViews()
        simple.forEachIndexed { i, choice -> rows.addView(row(rows, choice, i)) }
        val system = app.settings.systemPrompt.ifBlank { getString(R.string.none) }
        rows.addView(row(rows, R.string.setting_system, system, R.string.setting_system_help) { ask(SYSTEM_PROMPT) })
        val state = getString(if (advanced) R.string.hide else R.string.show)
        rows.addView(
            row(rows, R.string.setting_advanced, state, null) {
                advanced = !advanced
                render()
            },
        )
        if (advanced) expert.forEachIndexed { i, choice -> rows.addView(row(rows, choice, simple.size + i)) }
    }

    private fun row(rows: ViewGroup, choice: Choice, number: Int): View {
        val value = choice.labels.getOrNull(choice.current()) ?: getString(R.string.own_settings)
        return row(rows, choice.title, value, choice.help) { ask(CHOICE, Bundle().apply { putInt(NUMBER, number) }) }
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

    override fun createDialog(id: Int, arguments: Bundle): Dialog = when (id) {
        CHOICE -> choiceDialog((simple + expert)[arguments.getInt(NUMBER)])
        SYSTEM_PROMPT -> systemPromptDialog()
        else -> super.createDialog(id, arguments)
    }

    private fun choiceDialog(choice: Choice): Dialog = AlertDialog.Builder(this)
        .setTitle(choice.title)
        .setSingleChoiceItems(choice.labels.toTypedArray(), choice.current()) { dialog, chosen ->
            dialog.dismiss()
            choice.choose(chosen)
            render()
        }
        .setNegativeButton(R.string.cancel, null)
        .create()

    private fun systemPromptDialog(): Dialog {
        val input = inputField(R.id.system_prompt).apply {
            setText(app.settings.systemPrompt)
            hint = getString(R.string.setting_system)
        }
        return AlertDialog.Builder(this)
            .setTitle(R.string.setting_system)
            .setView(framed(input))
            .setNegativeButton(R.string.cancel, null)
            .setPositiveButton(R.string.ok) { _, _ ->
                app.settings.systemPrompt = input.text.toString().trim()
                render()
            }
            .create()
    }

    private fun hundredths(value: Int, decimals: Int) = numberText(value / WHOLE.toDouble(), decimals)

    private companion object {
        const val WHOLE = 100
        const val CHOICE = 1
        const val SYSTEM_PROMPT = 2
        const val NUMBER = "number"
        const val ADVANCED = "advanced"
    }
}
