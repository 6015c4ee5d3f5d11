package dev.mobilebundle.demo.ui

import android.app.Activity
import android.app.AlertDialog
import android.app.Dialog
import android.content.ClipData
import android.content.ClipboardManager
import android.content.Context
import android.content.Intent
import android.os.Build
import android.os.Bundle
import android.text.Editable
import android.text.TextWatcher
import android.util.TypedValue
import android.view.View
import android.view.WindowInsets
import android.widget.EditText
import android.widget.FrameLayout
import android.widget.ImageButton
import android.widget.TextView
import android.widget.Toast
import dev.mobilebundle.demo.DemoApplication
import dev.mobilebundle.demo.Language
import dev.mobilebundle.demo.R
import java.io.Closeable

/** What every screen shares: the header, room for the system's bars and the keyboard, and being told of changes. */
abstract class ScreenActivity : Activity() {
    private class OpenDialog(val id: Int, val arguments: Bundle, val dialog: Dialog)

    private val watched = ArrayList<Closeable>()
    private var dialog: OpenDialog? = null
    protected val app: DemoApplication get() = application as DemoApplication

    override fun attachBaseContext(base: Context) = super.attachBaseContext(Language.wrap(base))

    /** Sets the layout up. [home]: the screen that is below all others. */
    protected fun show(layout: Int, title: CharSequence, home: Boolean = false) {
        setContentView(layout)
        setTitle(title)
        findViewById<TextView>(R.id.title).apply {
            text = title
            // With large letters a heading, which is large already, would break within its words.
            setTextSize(TypedValue.COMPLEX_UNIT_PX, minOf(textSize, LARGEST_TITLE_DP * resources.displayMetrics.density))
        }
        findViewById<View>(R.id.back).apply {
            visibility = if (home) View.GONE else View.VISIBLE
            setOnClickListener { finish() }
        }
        findViewById<View>(R.id.open_settings).setOnClickListener {
            startActivity(Intent(this, SettingsActivity::class.java))
        }
        for (icon in listOf(R.id.back, R.id.open_settings)) findViewById<View>(icon).apply { tooltipText = contentDescription }
        keepClearOfBars(findViewById(R.id.screen))
    }

    /** A button of the header beside the settings. */
    protected fun headerAction(id: Int, icon: Int, label: Int, onClick: () -> Unit) {
        findViewById<ImageButton>(id).apply {
            visibility = View.VISIBLE
            setImageResource(icon)
            contentDescription = getString(label)
            tooltipText = contentDescription
            setOnClickListener { onClick() }
        }
    }

    /** The dialog that [createDialog] makes of a number and its arguments, and makes again after a rotation. */
    protected fun ask(id: Int, arguments: Bundle = Bundle()) = open(id, arguments, null)

    protected open fun createDialog(id: Int, arguments: Bundle): Dialog {
        val text = arguments.getString(TEXT)
        return AlertDialog.Builder(this)
            .setTitle(arguments.getString(TITLE))
            .setMessage(text)
            .setNegativeButton(R.string.copy) { _, _ -> copy(text.orEmpty()) }
            .setPositiveButton(R.string.ok, null)
            .create()
    }

    private fun open(id: Int, arguments: Bundle, state: Bundle?) {
        dialog?.dialog?.dismiss()
        val opened = createDialog(id, arguments)
        dialog = OpenDialog(id, arguments, opened)
        opened.setOnDismissListener { if (dialog?.dialog === opened) dialog = null }
        opened.show()
        state?.let { opened.onRestoreInstanceState(it) }
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        dialog?.let {
            state.putInt(DIALOG, it.id)
            state.putBundle(DIALOG_ARGUMENTS, it.arguments)
            state.putBundle(DIALOG_STATE, it.dialog.onSaveInstanceState())
        }
    }

    override fun onRestoreInstanceState(state: Bundle) {
        super.onRestoreInstanceState(state)
        state.getBundle(DIALOG_ARGUMENTS)?.let { open(state.getInt(DIALOG), it, state.getBundle(DIALOG_STATE)) }
    }

    override fun onDestroy() {
        dialog?.dialog?.apply {
            setOnDismissListener(null)
            dismiss()
        }
        super.onDestroy()
    }

    /** For a dialog. With an [id], what is typed survives a rotation. */
    protected fun inputField(id: Int) = EditText(this).apply { this.id = id }

    /** With the margins of a dialog's text. */
    protected fun framed(view: View) = FrameLayout(this).apply {
        val inset = (INSET_DP * resources.displayMetrics.density).toInt()
        setPadding(inset, inset / 2, inset, 0)
        addView(view)
    }

    /** Technical words and figures, in English where the runner wrote them. */
    protected fun showDetails(title: String, text: String) = ask(
        DETAILS,
        Bundle().apply {
            putString(TITLE, title)
            putString(TEXT, text)
        },
    )

    protected open fun copy(text: String) {
        (getSystemService(Context.CLIPBOARD_SERVICE) as ClipboardManager)
            .setPrimaryClip(ClipData.newPlainText(getString(R.string.app_name), text))
        Toast.makeText(this, R.string.copied, Toast.LENGTH_SHORT).show()
    }

    /** Hands a text to another app, of the user's choice. */
    protected fun share(text: String, label: Int) {
        val intent = Intent(Intent.ACTION_SEND).setType("text/plain")
            .putExtra(Intent.EXTRA_TEXT, text)
            .putExtra(Intent.EXTRA_SUBJECT, title)
        startActivity(Intent.createChooser(intent, getString(label)))
    }

    /** Called as long as the screen is visible. */
    protected fun watch(observation: Closeable) {
        watched += observation
    }

    override fun onStop() {
        watched.forEach { it.close() }
        watched.clear()
        super.onStop()
    }

    /** Since Android 15 a screen reaches below the bars; before, the system insets it itself and hands over zeros. */
    private fun keepClearOfBars(screen: View) {
        screen.setOnApplyWindowInsetsListener { view, insets ->
            if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.R) {
                padByKinds(view, insets)
            } else {
                @Suppress("DEPRECATION")
                view.setPadding(
                    insets.systemWindowInsetLeft,
                    insets.systemWindowInsetTop,
                    insets.systemWindowInsetRight,
                    insets.systemWindowInsetBottom,
                )
            }
            insets
        }
    }

    @Guarded
    private fun padByKinds(view: View, insets: WindowInsets) {
        val kinds = WindowInsets.Type.systemBars() or WindowInsets.Type.displayCutout() or WindowInsets.Type.ime()
        val bars = insets.getInsets(kinds)
        view.setPadding(bars.left, bars.top, bars.right, bars.bottom)
    }

    private companion object {
        const val DETAILS = 100
        const val INSET_DP = 20
        const val LARGEST_TITLE_DP = 26f
        const val DIALOG = "dialog"
        const val DIALOG_ARGUMENTS = "dialog-arguments"
        const val DIALOG_STATE = "dialog-state"
        const val TITLE = "title"
        const val TEXT = "text"
    }
}

/** Calls [action] after every change of what is typed. */
internal fun EditText.onChange(action: () -> Unit) = addTextChangedListener(object : TextWatcher {
    override fun beforeTextChanged(text: CharSequence, start: Int, count: Int, after: Int) = Unit

    override fun onTextChanged(text: CharSequence, start: Int, before: Int, count: Int) = Unit

    override fun afterTextChanged(text: Editable) = action()
})

/** A live region reads its text aloud when it is set, also to what it was. */
internal fun TextView.setTextIfChanged(next: CharSequence) {
    if (text.toString() != next.toString()) text = next
}

/** Calls what the oldest Android that the app runs on does not have; its caller checks for that. */
@Retention(AnnotationRetention.BINARY)
annotation class Guarded
