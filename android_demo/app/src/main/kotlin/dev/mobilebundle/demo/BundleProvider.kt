package dev.mobilebundle.demo

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Context
import android.content.Intent
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.OpenableColumns
import dev.mobilebundle.lm.BundleExporter
import dev.mobilebundle.lm.StoredBundle
import java.io.FileNotFoundException
import java.io.IOException
import kotlin.concurrent.thread

/**
 * Hands a bundle as a file to the app that the user chose to send it with, and to no other: it is not exported, and the right
 * to read one file goes with the intent. The file is made while it is read, so it takes no storage.
 */
class BundleProvider : ContentProvider() {
    private val app get() = checkNotNull(context).applicationContext as DemoApplication

    override fun onCreate() = true

    override fun getType(uri: Uri) = TYPE

    override fun query(uri: Uri, columns: Array<String>?, where: String?, values: Array<String>?, order: String?): Cursor {
        val shown = columns ?: arrayOf(OpenableColumns.DISPLAY_NAME)
        val name = find(uri)?.let { "${it.manifest.name.replace('/', '_')}.mbundle.zip" }
        // The size is not known before the file is made.
        return MatrixCursor(shown).apply {
            if (name != null) addRow(shown.map { if (it == OpenableColumns.DISPLAY_NAME) name else null })
        }
    }

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        if (mode != "r") throw FileNotFoundException("it can only be read")
        val bundle = find(uri) ?: throw FileNotFoundException("there is no such bundle")
        val (reading, writing) = ParcelFileDescriptor.createPipe()
        thread(name = "export", isDaemon = true) {
            try {
                BundleExporter(bundle).write(ParcelFileDescriptor.AutoCloseOutputStream(writing))
            } catch (_: IOException) {
                // who read it has gone, or a file has: the reader finds an incomplete ZIP
            }
        }
        return reading
    }

    private fun find(uri: Uri): StoredBundle? = app.store.find(uri.lastPathSegment.orEmpty())

    override fun insert(uri: Uri, values: ContentValues?): Uri? = null

    override fun delete(uri: Uri, where: String?, values: Array<String>?) = 0

    override fun update(uri: Uri, new: ContentValues?, where: String?, values: Array<String>?) = 0

    companion object {
        private const val TYPE = "application/zip"

        /** What sends a bundle by another app. */
        fun sending(context: Context, bundle: StoredBundle): Intent = Intent(Intent.ACTION_SEND)
            .setType(TYPE)
            .putExtra(Intent.EXTRA_STREAM, Uri.parse("content://${context.packageName}.bundles/${bundle.id}"))
            .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
    }
}
