package dev.mobilebundle.demo.ui

import android.app.Activity
import android.content.Context
import android.content.Intent
import android.widget.Toast
import dev.mobilebundle.demo.R
import dev.mobilebundle.lm.StoredBundle

/** A screen of one bundle: it is looked up each time the screen comes to the front, and without it there is no screen. */
abstract class BundleActivity : ScreenActivity() {
    /** In front of the user, between onStart and onStop. */
    private var started = false

    /** The bundle is there, and the screen still in front. */
    protected abstract fun enter(bundle: StoredBundle)

    override fun onStart() {
        super.onStart()
        started = true
        app.bundles.find(intent.getStringExtra(BUNDLE).orEmpty()) { if (started) found(it) }
    }

    override fun onStop() {
        started = false
        super.onStop()
    }

    private fun found(bundle: StoredBundle?) {
        if (bundle != null) return enter(bundle)
        Toast.makeText(this, R.string.no_bundle, Toast.LENGTH_LONG).show()
        finish()
    }

    companion object {
        private const val BUNDLE = "bundle"

        /** The screen [screen] of a bundle of the store. */
        internal fun intent(context: Context, screen: Class<out Activity>, bundleId: String): Intent =
            Intent(context, screen).putExtra(BUNDLE, bundleId)
    }
}
