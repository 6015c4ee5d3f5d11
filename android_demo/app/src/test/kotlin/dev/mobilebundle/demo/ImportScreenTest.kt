package dev.mobilebundle.demo

import android.app.Activity
import android.content.Intent
import dev.mobilebundle.demo.ui.ModelsActivity
import dev.mobilebundle.lm.ImportError
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.FilterInputStream
import java.io.IOException
import java.io.InputStream
import java.util.zip.ZipEntry
import java.util.zip.ZipInputStream
import java.util.zip.ZipOutputStream
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.robolectric.Robolectric
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController

/** What tests of the models screen share: the picker, and files with something wrong in them. */
abstract class ImportScreenTest : AppTest() {
    protected fun screen(): ActivityController<ModelsActivity> = Robolectric.buildActivity(ModelsActivity::class.java).setup()

    /** Presses the button, and answers for the system's picker. */
    protected fun ModelsActivity.pick(name: String, open: () -> InputStream) {
        press(R.id.pick)
        val asked = shadowOf(this).nextStartedActivityForResult
        assertEquals(Intent.ACTION_OPEN_DOCUMENT, asked.intent.action)
        shadowOf(this).receiveResult(asked.intent, Activity.RESULT_OK, Intent().setData(picked(name, open)))
        idle()
    }

    protected fun waitForImport() = waitFor("the import") { !app.imports.isRunning }

    protected fun partials() = app.store.root.listFiles().orEmpty().filter { it.name.startsWith(".") }

    /** The packed model with some of its entries changed. */
    protected fun changed(name: String, change: (ByteArray) -> ByteArray?): ByteArray {
        val out = ByteArrayOutputStream()
        ZipOutputStream(out).use { target ->
            ZipInputStream(Inputs.textModel.inputStream()).use { source ->
                generateSequence { source.nextEntry }.forEach { entry ->
                    val bytes = source.readBytes()
                    (if (entry.name == name) change(bytes) else bytes)?.let {
                        target.putNextEntry(ZipEntry(entry.name))
                        target.write(it)
                    }
                }
            }
        }
        return out.toByteArray()
    }

    protected fun importError(bytes: ByteArray): ImportError = assertThrows(ImportError::class.java) {
        import(bytes.inputStream())
    }

    /** Gives some bytes, then fails as a full disk does, or as a card that was pulled out, or as a process that is killed. */
    protected class Failing(source: InputStream, private var left: Int, private val failure: Throwable) : FilterInputStream(source) {
        constructor(source: InputStream, left: Int, message: String) : this(source, left, IOException(message))

        override fun read(buffer: ByteArray, offset: Int, count: Int): Int {
            if (left <= 0) throw failure
            return super.read(buffer, offset, minOf(count, left)).also { left -= it }
        }
    }
}
