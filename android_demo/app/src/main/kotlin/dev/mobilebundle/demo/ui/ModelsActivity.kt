package dev.mobilebundle.demo.ui

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.ProgressBar
import android.widget.TextView
import dev.mobilebundle.demo.ImportState
import dev.mobilebundle.demo.R
import dev.mobilebundle.demo.byteText
import dev.mobilebundle.demo.countText
import dev.mobilebundle.demo.describe
import dev.mobilebundle.demo.numberText
import dev.mobilebundle.lm.MemoryFit
import dev.mobilebundle.lm.StoredBundle

/** The models on this phone: what they need, and the way to their conversation; importing and deleting. */
class ModelsActivity : ScreenActivity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        show(R.layout.activity_models, getString(R.string.models), home = true)
        findViewById<View>(R.id.pick).setOnClickListener { pick() }
        findViewById<View>(R.id.import_retry).setOnClickListener { app.imports.retry() }
        findViewById<View>(R.id.import_stop).setOnClickListener {
            if (app.imports.state is ImportState.Running) app.imports.stop() else app.imports.discard()
        }
    }

    override fun onStart() {
        super.onStart()
        watch(app.imports.observe { render() })
        if (app.imports.state == ImportState.Interrupted) app.imports.retry()
        render()
    }

    /** The system's own file picker: it needs no permission, and gives the right to read that one file. */
    private fun pick() {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*")
        @Suppress("DEPRECATION") // its replacement is in a library that this app does without
        startActivityForResult(intent, PICK)
    }

    @Deprecated("its replacement is in a library that this app does without")
    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        if (requestCode == PICK && resultCode == Activity.RESULT_OK) data?.data?.let { app.imports.start(it) }
    }

    private fun render() {
        val bundles = app.store.list()
        val memory = app.memory()
        findViewById<TextView>(R.id.phone).text = getString(
            R.string.phone_facts,
            byteText(memory.forAppsBytes),
            byteText(memory.availableBytes),
            byteText(app.store.freeBytes()),
        )
        renderImport()
        val list = findViewById<ViewGroup>(R.id.bundles)
        // While an import runs this is called many times a second: the list only changes with what is in it.
        val shown = bundles.map { it.id to MemoryFit.of(it.manifest, memory, context(it)) }
        if (list.tag != shown) {
            list.tag = shown
            list.removeAllViews()
            bundles.forEach { list.addView(card(it, MemoryFit.of(it.manifest, memory, context(it)), list)) }
        }
        val importing = app.imports.state != ImportState.None
        findViewById<View>(R.id.empty).visibility = if (bundles.isEmpty() && !importing) View.VISIBLE else View.GONE
        findViewById<View>(R.id.pick).isEnabled = app.imports.state !is ImportState.Running
    }

    private fun context(bundle: StoredBundle) = app.settings.loadOptions(bundle.manifest.longestContext).context

    private fun card(bundle: StoredBundle, fit: MemoryFit, parent: ViewGroup): View {
        val card = layoutInflater.inflate(R.layout.card_bundle, parent, false)
        val manifest = bundle.manifest
        card.findViewById<TextView>(R.id.name).text = manifest.name
        card.findViewById<TextView>(R.id.facts).text = getString(
            R.string.bundle_facts,
            manifest.recipe,
            byteText(bundle.diskBytes),
            countText(manifest.parameters),
            numberText(manifest.bitsPerWeight, 2),
        )
        card.findViewById<TextView>(R.id.fit).apply {
            text = describe(fit)
            val (ground, ink) = when (fit.verdict) {
                MemoryFit.Verdict.FITS -> R.drawable.chip_fits to R.color.on_primary_container
                MemoryFit.Verdict.TIGHT -> R.drawable.chip_tight to R.color.on_warning_container
                MemoryFit.Verdict.TOO_LARGE -> R.drawable.chip_too_large to R.color.on_error_container
            }
            setBackgroundResource(ground)
            setTextColor(getColor(ink))
        }
        val fits = fit.verdict != MemoryFit.Verdict.TOO_LARGE
        act(card, R.id.chat, fits, R.string.chat, bundle) { startActivity(ChatActivity.intent(this, bundle.id)) }
        act(card, R.id.benchmark, fits, R.string.benchmark, bundle) {
            startActivity(BenchmarkActivity.intent(this, bundle.id))
        }
        act(card, R.id.delete, true, R.string.delete, bundle) { askToDelete(bundle) }
        return card
    }

    /** A card's button; read aloud it says which model it is for. */
    private fun act(card: View, id: Int, shown: Boolean, label: Int, bundle: StoredBundle, onClick: () -> Unit) {
        card.findViewById<View>(id).apply {
            visibility = if (shown) View.VISIBLE else View.GONE
            contentDescription = "${getString(label)}, ${bundle.manifest.name}"
            setOnClickListener { onClick() }
        }
    }

    private fun askToDelete(bundle: StoredBundle) {
        AlertDialog.Builder(this)
            .setMessage(getString(R.string.delete_question, bundle.manifest.name, byteText(bundle.diskBytes)))
            .setNegativeButton(R.string.cancel, null)
            .setPositiveButton(R.string.delete) { _, _ ->
                app.chat.forget(bundle.id)
                app.store.delete(bundle.id)
                render()
            }
            .show()
    }

    private fun renderImport() {
        val state = app.imports.state
        findViewById<View>(R.id.import_card).visibility = if (state == ImportState.None) View.GONE else View.VISIBLE
        val running = state is ImportState.Running
        val progress = (state as? ImportState.Running)?.progress
        findViewById<TextView>(R.id.import_title).text =
            if (running) progress?.name ?: getString(R.string.import_bundle) else getString(R.string.import_failed)
        findViewById<TextView>(R.id.import_text).setTextIfChanged(
            when (state) {
                is ImportState.Failed -> describe(state.error)
                ImportState.Interrupted -> getString(R.string.import_interrupted)
                else -> when {
                    progress == null -> getString(R.string.import_waiting)
                    progress.installing ->
                        getString(R.string.import_decoding, byteText(progress.doneBytes), byteText(progress.totalBytes))
                    else ->
                        getString(R.string.import_copying, byteText(progress.doneBytes), byteText(progress.totalBytes))
                }
            },
        )
        findViewById<ProgressBar>(R.id.import_bar).apply {
            visibility = if (running) View.VISIBLE else View.GONE
            isIndeterminate = progress == null
            this.progress = progress?.let { (max * it.doneBytes / maxOf(1, it.totalBytes)).toInt() } ?: 0
        }
        findViewById<View>(R.id.import_retry).visibility = if (running) View.GONE else View.VISIBLE
        findViewById<TextView>(R.id.import_stop).setText(if (running) R.string.stop else R.string.discard)
    }

    private companion object {
        const val PICK = 1
    }
}

/** A live region reads its text aloud when it is set, also to what it was. */
internal fun TextView.setTextIfChanged(next: CharSequence) {
    if (text.toString() != next.toString()) text = next
}
