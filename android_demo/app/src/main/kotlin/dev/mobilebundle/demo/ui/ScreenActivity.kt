package dev.mobilebundle.demo.ui

import android.app.Activity
import android.content.Intent
import android.os.Build
import android.view.View
import android.view.WindowInsets
import android.widget.ImageButton
import android.widget.TextView
import dev.mobilebundle.demo.DemoApplication
import dev.mobilebundle.demo.R
import java.io.Closeable

/** What every screen shares: the header, room for the system's bars and the keyboard, and being told of changes. */
abstract class ScreenActivity : Activity() {
    private val watched = ArrayList<Closeable>()
    protected val app: DemoApplication get() = application as DemoApplication

    /** Sets the layout up. [home]: the screen that is below all others. */
    protected fun show(layout: Int, title: CharSequence, home: Boolean = false) {
        setContentView(layout)
        setTitle(title)
        findViewById<TextView>(R.id.title).text = title
        findViewById<View>(R.id.back).apply {
            visibility = if (home) View.GONE else View.VISIBLE
            setOnClickListener { finish() }
        }
        findViewById<View>(R.id.open_settings).setOnClickListener {
            startActivity(Intent(this, SettingsActivity::class.java))
        }
        keepClearOfBars(findViewById(R.id.screen))
    }

    /** A button of the header beside the settings. */
    protected fun headerAction(icon: Int, label: Int, onClick: () -> Unit) {
        findViewById<ImageButton>(R.id.header_action).apply {
            visibility = View.VISIBLE
            setImageResource(icon)
            contentDescription = getString(label)
            setOnClickListener { onClick() }
        }
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
}

/** Calls what the oldest Android that the app runs on does not have; its caller checks for that. */
@Retention(AnnotationRetention.BINARY)
annotation class Guarded
