package dev.mobilebundle.demo.ui

import android.app.Activity
import android.app.AlertDialog
import android.app.Dialog
import android.content.ActivityNotFoundException
import android.content.Intent
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.text.InputType
import android.view.View
import android.view.ViewGroup
import android.widget.ProgressBar
import android.widget.TextView
import android.widget.Toast
import dev.mobilebundle.demo.BundleProvider
import dev.mobilebundle.demo.Download
import dev.mobilebundle.demo.ImportState
import dev.mobilebundle.demo.R
import dev.mobilebundle.demo.byteText
import dev.mobilebundle.demo.countText
import dev.mobilebundle.demo.describe
import dev.mobilebundle.demo.numberText
import dev.mobilebundle.demo.timeLeftText
import dev.mobilebundle.lm.MemoryFit
import dev.mobilebundle.lm.StoredBundle

/** The models on this phone: what they need, and the way to their conversations; importing and deleting. */
class ModelsActivity : ScreenActivity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        show(R.layout.activity_models, getString(R.string.models), home = true)
        findViewById<View>(R.id.pick).setOnClickListener { pick() }
        findViewById<View>(R.id.models_link).setOnClickListener { openModelsLink() }
        val online = Download.isAllowed(this)
        findViewById<View>(R.id.first_private).visibility = if (online) View.GONE else View.VISIBLE
        findViewById<View>(R.id.download).apply {
            visibility = if (online) View.VISIBLE else View.GONE
            setOnClickListener { ask(DOWNLOAD) }
        }
        findViewById<View>(R.id.import_retry).setOnClickListener { app.imports.retry() }
        findViewById<View>(R.id.import_stop).setOnClickListener {
            if (app.imports.isRunning) app.imports.stop() else app.imports.discard()
        }
        findViewById<View>(R.id.import_details).setOnClickListener {
            val failed = app.imports.state as? ImportState.Failed
            failed?.let { showDetails(getString(R.string.details), it.error.toString()) }
        }
        if (savedInstanceState == null) offer(intent)
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        offer(intent)
    }

    override fun onStart() {
        super.onStart()
        watch(app.imports.observe { renderImport() })
        watch(app.bundles.observe { renderBundles() })
        app.bundles.refresh()
        renderImport()
        renderBundles()
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

    /** Another app has the permission for it: the browser. */
    private fun openModelsLink() {
        val address = getString(R.string.models_address)
        try {
            startActivity(Intent(Intent.ACTION_VIEW, Uri.parse(address)))
        } catch (_: ActivityNotFoundException) {
            showDetails(getString(R.string.first_link), address)
        }
    }

    /** A file that another app opens or shares with this one: any app can, so the user is asked. */
    private fun offer(intent: Intent) {
        val uri = when (intent.action) {
            Intent.ACTION_VIEW -> intent.data
            Intent.ACTION_SEND -> stream(intent)
            else -> null
        }
        // Of a path of the file system this app can read what the other may not: its own private files.
        if (uri?.scheme == "content") ask(IMPORT, Bundle().apply { putString(URI, uri.toString()) })
    }

    private fun stream(intent: Intent): Uri? = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU) {
        streamOfType(intent)
    } else {
        @Suppress("DEPRECATION")
        intent.getParcelableExtra(Intent.EXTRA_STREAM)
    }

    @Guarded
    private fun streamOfType(intent: Intent): Uri? = intent.getParcelableExtra(Intent.EXTRA_STREAM, Uri::class.java)

    override fun createDialog(id: Int, arguments: Bundle): Dialog = when (id) {
        IMPORT -> AlertDialog.Builder(this)
            .setMessage(R.string.import_question)
            .setNegativeButton(R.string.cancel, null)
            .setPositiveButton(R.string.import_bundle) { _, _ -> app.imports.start(Uri.parse(arguments.getString(URI))) }
            .create()
        DOWNLOAD -> downloadDialog()
        DELETE -> AlertDialog.Builder(this)
            .setMessage(getString(R.string.delete_question, arguments.getString(NAME), byteText(arguments.getLong(BYTES))))
            .setNegativeButton(R.string.cancel, null)
            .setPositiveButton(R.string.delete) { _, _ -> app.bundles.delete(arguments.getString(ID).orEmpty()) }
            .create()
        else -> super.createDialog(id, arguments)
    }

    private fun downloadDialog(): Dialog {
        val input = inputField(R.id.address).apply {
            hint = getString(R.string.download_hint)
            inputType = InputType.TYPE_CLASS_TEXT or InputType.TYPE_TEXT_VARIATION_URI
        }
        return AlertDialog.Builder(this)
            .setTitle(R.string.download_title)
            .setMessage(R.string.download_help)
            .setView(framed(input))
            .setNegativeButton(R.string.cancel, null)
            .setPositiveButton(R.string.download) { _, _ -> download(input.text.toString()) }
            .create()
    }

    private fun download(text: String) {
        val address = Download.address(text)
        if (address != null) app.imports.start(address) else Toast.makeText(this, R.string.download_bad_address, Toast.LENGTH_LONG).show()
    }

    private fun renderBundles() {
        val bundles = app.bundles.all
        val memory = app.memory()
        findViewById<TextView>(R.id.phone).text = getString(
            R.string.phone_facts,
            byteText(memory.forAppsBytes),
            byteText(memory.availableBytes),
            byteText(app.bundles.freeBytes),
        )
        val list = findViewById<ViewGroup>(R.id.bundles)
        val shown = bundles.orEmpty().map { it.id to MemoryFit.of(it.manifest, memory, context(it)) }
        if (list.tag != shown) {
            list.tag = shown
            list.removeAllViews()
            bundles.orEmpty().forEach { list.addView(card(it, MemoryFit.of(it.manifest, memory, context(it)), list)) }
        }
        findViewById<TextView>(R.id.largest).text =
            getString(R.string.first_largest, byteText(memory.forAppsBytes), countText(MemoryFit.largestModel(memory)))
        renderEmpty()
    }

    private fun renderEmpty() {
        val empty = app.bundles.all?.isEmpty() == true && app.imports.state == ImportState.None
        findViewById<View>(R.id.empty).visibility = if (empty) View.VISIBLE else View.GONE
    }

    private fun context(bundle: StoredBundle) = app.settings.loadOptions(bundle.manifest.longestContext).context

    private fun card(bundle: StoredBundle, fit: MemoryFit, parent: ViewGroup): View {
        val card = layoutInflater.inflate(R.layout.card_bundle, parent, false)
        val manifest = bundle.manifest
        card.findViewById<TextView>(R.id.name).text = manifest.name
        card.findViewById<TextView>(R.id.facts).text =
            getString(R.string.bundle_facts, countText(manifest.parameters), byteText(bundle.diskBytes))
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
        act(card, R.id.bundle_details, true, R.string.details, bundle) { showDetails(manifest.name, details(bundle)) }
        act(card, R.id.send_bundle, true, R.string.send_bundle, bundle) {
            startActivity(Intent.createChooser(BundleProvider.sending(this, bundle), getString(R.string.send_bundle)))
        }
        act(card, R.id.delete, true, R.string.delete, bundle) { askToDelete(bundle) }
        return card
    }

    private fun details(bundle: StoredBundle): String = getString(
        R.string.bundle_details,
        bundle.manifest.recipe,
        numberText(bundle.manifest.bitsPerWeight, 2),
        byteText(bundle.manifest.peakBytes(context(bundle))),
        bundle.manifest.defaultContext,
        bundle.id,
    )

    /** A card's button; read aloud it says which model it is for. */
    private fun act(card: View, id: Int, shown: Boolean, label: Int, bundle: StoredBundle, onClick: () -> Unit) {
        card.findViewById<View>(id).apply {
            visibility = if (shown) View.VISIBLE else View.GONE
            contentDescription = "${getString(label)}, ${bundle.manifest.name}"
            setOnClickListener { onClick() }
        }
    }

    private fun askToDelete(bundle: StoredBundle) = ask(
        DELETE,
        Bundle().apply {
            putString(ID, bundle.id)
            putString(NAME, bundle.manifest.name)
            putLong(BYTES, bundle.diskBytes)
        },
    )

    private fun renderImport() {
        val state = app.imports.state
        findViewById<View>(R.id.import_card).visibility = if (state == ImportState.None) View.GONE else View.VISIBLE
        val running = app.imports.isRunning
        val progress = (state as? ImportState.Running)?.progress
        val download = state as? ImportState.Downloading
        findViewById<TextView>(R.id.import_title).setTextIfChanged(
            if (running) progress?.name ?: getString(R.string.import_bundle) else getString(R.string.import_failed),
        )
        findViewById<TextView>(R.id.import_text).setTextIfChanged(
            when (state) {
                is ImportState.Failed -> describe(state.error)
                ImportState.Interrupted -> getString(R.string.import_interrupted)
                is ImportState.Downloading ->
                    if (state.totalBytes < 0) {
                        getString(R.string.import_downloading_unknown, byteText(state.doneBytes))
                    } else {
                        getString(R.string.import_downloading, byteText(state.doneBytes), byteText(state.totalBytes))
                    }
                else -> when {
                    progress == null -> getString(R.string.import_waiting)
                    progress.installing ->
                        getString(R.string.import_decoding, byteText(progress.doneBytes), byteText(progress.totalBytes))
                    else ->
                        getString(R.string.import_copying, byteText(progress.doneBytes), byteText(progress.totalBytes))
                }
            },
        )
        val minutes = (state as? ImportState.Running)?.minutesLeft ?: download?.minutesLeft
        findViewById<TextView>(R.id.import_left).apply {
            visibility = if (minutes == null) View.GONE else View.VISIBLE
            setTextIfChanged(minutes?.let { timeLeftText(it) }.orEmpty())
        }
        findViewById<ProgressBar>(R.id.import_bar).apply {
            visibility = if (running) View.VISIBLE else View.GONE
            val done = progress?.doneBytes ?: download?.doneBytes ?: 0L
            val total = progress?.totalBytes ?: download?.totalBytes ?: -1L
            isIndeterminate = total < 0
            this.progress = if (total < 0) 0 else (max * done / maxOf(1L, total)).toInt()
        }
        findViewById<View>(R.id.import_retry).visibility = if (running) View.GONE else View.VISIBLE
        findViewById<View>(R.id.import_details).visibility = if (state is ImportState.Failed) View.VISIBLE else View.GONE
        findViewById<TextView>(R.id.import_stop).setText(if (running) R.string.stop else R.string.discard)
        for (button in listOf(R.id.pick, R.id.download)) findViewById<View>(button).isEnabled = !running
        findViewById<View>(R.id.screen).keepScreenOn = running
        renderEmpty()
    }

    private companion object {
        const val PICK = 1
        const val IMPORT = 1
        const val DELETE = 2
        const val DOWNLOAD = 3
        const val URI = "uri"
        const val ID = "id"
        const val NAME = "name"
        const val BYTES = "bytes"
    }
}
