package dev.mobilebundle.demo

import android.app.Activity
import android.content.Intent
import android.view.View
import android.view.ViewGroup
import android.widget.TextView
import dev.mobilebundle.demo.ui.ModelsActivity
import dev.mobilebundle.lm.BundleImporter
import dev.mobilebundle.lm.ImportError
import dev.mobilebundle.lm.MemoryFit
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.FilterInputStream
import java.io.IOException
import java.io.InputStream
import java.util.zip.ZipEntry
import java.util.zip.ZipInputStream
import java.util.zip.ZipOutputStream
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.Robolectric
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController

/** The models screen: importing by the file picker, and everything that can be wrong with a file. */
class ImportTest : AppTest() {
    private fun screen(): ActivityController<ModelsActivity> = Robolectric.buildActivity(ModelsActivity::class.java).setup()

    /** Presses the button, and answers for the system's picker. */
    private fun ModelsActivity.pick(name: String, open: () -> InputStream) {
        press(R.id.pick)
        val asked = shadowOf(this).nextStartedActivityForResult
        assertEquals(Intent.ACTION_OPEN_DOCUMENT, asked.intent.action)
        shadowOf(this).receiveResult(asked.intent, Activity.RESULT_OK, Intent().setData(picked(name, open)))
        idle()
    }

    private fun waitForImport() = waitFor("the import") { app.imports.state !is ImportState.Running }

    private fun partials() = app.store.root.listFiles().orEmpty().filter { it.name.startsWith(".") }

    /** The packed model with some of its entries changed. */
    private fun changed(name: String, change: (ByteArray) -> ByteArray?): ByteArray {
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

    private fun importError(bytes: ByteArray): ImportError = assertThrows(ImportError::class.java) {
        BundleImporter(app.store, app.memory(), app.program).import(bytes.inputStream())
    }

    @Test
    fun importsThroughThePickerAndShowsWhatItNeeds() {
        screen().use { controller ->
            val screen = controller.get()
            assertTrue(screen.isShown(R.id.empty))
            screen.pick("wiki") { Inputs.textModel.inputStream() }
            waitForImport()
            idle()
            assertEquals(ImportState.None, app.imports.state)
            val card = screen.findViewById<ViewGroup>(R.id.bundles).getChildAt(0)
            assertEquals("wiki-6m", card.findViewById<TextView>(R.id.name).text.toString())
            val fit = card.findViewById<TextView>(R.id.fit).text.toString()
            assertTrue(fit, Regex("""Fits: needs \d\.\d MB of memory at most""").matches(fit))
            assertFalse(screen.isShown(R.id.empty))
            val directory = app.store.list().single().directory
            assertTrue("decoded by the runner", File(directory, "weights.cache").length() > 0)
            assertTrue("nothing else is left", partials().isEmpty())
        }
    }

    @Test
    fun deletesAfterAsking() {
        val bundle = imported(Inputs.textModel)
        screen().use { controller ->
            val card = controller.get().findViewById<ViewGroup>(R.id.bundles).getChildAt(0)
            card.findViewById<View>(R.id.delete).performClick()
            val dialog = org.robolectric.shadows.ShadowAlertDialog.getLatestAlertDialog()
            assertTrue(bundle.directory.exists())
            dialog.getButton(android.app.AlertDialog.BUTTON_POSITIVE).performClick()
            idle()
            assertFalse(bundle.directory.exists())
            assertTrue(controller.get().isShown(R.id.empty))
        }
    }

    @Test
    fun tooLargeForThisPhoneIsRefusedWithTheReason() {
        val large = changed("manifest.json") { bytes ->
            String(bytes).replace(Regex(""""peak_bytes": \d+"""), """"peak_bytes": 1400000000""").toByteArray()
        }
        screen().use { controller ->
            val screen = controller.get()
            screen.pick("large") { large.inputStream() }
            waitForImport()
            idle()
            assertEquals(
                "Too large for this phone: needs 1.4 GB of memory, about 1.0 GB are there for apps.",
                screen.text(R.id.import_text),
            )
            assertTrue("nothing was copied", partials().isEmpty() && app.store.list().isEmpty())
        }
    }

    @Test
    fun aModelThatNoLongerFitsTheSettingsIsMarked() {
        val bundle = imported(Inputs.textModel)
        assertEquals(MemoryFit.Verdict.FITS, MemoryFit.of(bundle.manifest, app.memory()).verdict)
        phone(totalBytes = 1_900_000_000, availableBytes = 1_000_000)
        assertEquals(MemoryFit.Verdict.TIGHT, MemoryFit.of(bundle.manifest, app.memory()).verdict)
        val short = bundle.manifest.peakBytes(256)
        val tokens = bundle.manifest.defaultContext - 256
        assertEquals(bundle.manifest.peakBytes() - short, tokens * (bundle.manifest.anonymousBytes() - bundle.manifest.anonymousBytes(256)) / tokens)
    }

    @Test
    fun damageIsFoundByTheChecksum() {
        val bytes = changed("weights.ptd") { it.also { data -> data[data.size / 2] = (data[data.size / 2] + 1).toByte() } }
        screen().use { controller ->
            controller.get().pick("damaged") { bytes.inputStream() }
            waitForImport()
            idle()
            val said = controller.get().text(R.id.import_text)
            assertTrue(said, said.startsWith("The file is damaged: weights.ptd"))
            assertTrue(app.store.list().isEmpty())
            controller.get().press(R.id.import_stop)
            assertTrue("discarded", partials().isEmpty())
        }
    }

    @Test
    fun whatIsNoBundleIsRefused() {
        assertTrue(importError(ByteArray(0)) is ImportError.NotABundle)
        assertTrue(importError(ByteArray(100_000) { 7 }) is ImportError.NotABundle)
        assertTrue(importError(changed("manifest.json") { null }) is ImportError.NotABundle)
        assertTrue(importError(changed("manifest.json") { "{}".toByteArray() }) is ImportError.NotABundle)
        val newer = changed("manifest.json") { String(it).replace("\"format_version\": 1", "\"format_version\": 2").toByteArray() }
        assertTrue(importError(newer).message.orEmpty(), importError(newer).message!!.contains("version 2"))
        val escaping = changed("manifest.json") { String(it).replace("\"tokenizer.bin\"", "\"../tokenizer.bin\"").toByteArray() }
        assertTrue(importError(escaping) is ImportError.NotABundle)
        assertEquals("tokenizer.bin", (importError(changed("tokenizer.bin") { null }) as ImportError.Damaged).part)
        assertTrue(app.store.list().isEmpty())
    }

    @Test
    fun aFullDiskIsToldBeforeAnythingIsCopied() {
        disk(freeBytes = 60_000_000)
        screen().use { controller ->
            val screen = controller.get()
            screen.pick("wiki") { Inputs.textModel.inputStream() }
            waitForImport()
            idle()
            val said = screen.text(R.id.import_text)
            assertTrue(said, Regex("""Not enough storage: \d+ MB are needed, 60 MB are free.*""").matches(said))
            disk(freeBytes = 4_000_000_000)
            screen.press(R.id.import_retry)
            waitForImport()
            assertEquals(ImportState.None, app.imports.state)
        }
    }

    /** Gives some bytes, then fails as a full disk does, or as a card that was pulled out. */
    private class Failing(source: InputStream, private var left: Int, private val message: String) : FilterInputStream(source) {
        override fun read(buffer: ByteArray, offset: Int, count: Int): Int {
            if (left <= 0) throw IOException(message)
            return super.read(buffer, offset, minOf(count, left)).also { left -= it }
        }
    }

    @Test
    fun anImportThatBrokeOffGoesOnWhereItWas() {
        var opened = 0
        val open = {
            val file = Inputs.textModel.inputStream()
            if (opened++ == 0) Failing(file, 1_500_000, "pulled out") else file
        }
        screen().use { controller ->
            controller.get().pick("wiki", open)
            waitForImport()
            assertTrue((app.imports.state as ImportState.Failed).error is ImportError.Unreadable)
            val kept = partials().single().walk().filter { it.name == "weights.ptd.part" }.single().length()
            assertTrue("$kept bytes are kept", kept > 500_000)
        }
        // As after a kill: the app starts again, knows of the import and goes on with it.
        val again = ImportTask(app)
        assertEquals(ImportState.Interrupted, again.state)
        again.retry()
        waitFor("the import") { again.state !is ImportState.Running }
        assertEquals(ImportState.None, again.state)
        assertEquals(2, opened)
        assertEquals(1, app.store.list().size)
    }

    @Test
    fun aDiskThatFillsUpMeanwhileIsCalledThat() {
        val error = assertThrows(ImportError::class.java) {
            val source = Failing(Inputs.textModel.inputStream(), 1_500_000, "write failed: ENOSPC (No space left on device)")
            BundleImporter(app.store, app.memory(), app.program).import(source)
        }
        assertTrue("$error", error is ImportError.DiskFull)
    }

    @Test
    fun stopKeepsWhatWasCopied() {
        val error = assertThrows(ImportError::class.java) {
            var asked = 0
            BundleImporter(app.store, app.memory(), app.program, stopped = { asked++ > 4 }).import(Inputs.textModel.inputStream())
        }
        assertTrue(error is ImportError.Stopped)
        assertEquals(1, partials().size)
        imported(Inputs.textModel)
        assertTrue(partials().isEmpty())
    }
}
