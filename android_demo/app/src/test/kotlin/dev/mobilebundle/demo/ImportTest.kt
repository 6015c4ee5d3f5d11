package dev.mobilebundle.demo

import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.TextView
import dev.mobilebundle.lm.ImportError
import dev.mobilebundle.lm.MemoryFit
import java.io.File
import java.io.FilterInputStream
import java.time.Duration
import java.util.concurrent.CountDownLatch
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.Shadows.shadowOf

/** The models screen: importing by the file picker, and everything that can be wrong with a file. */
class ImportTest : ImportScreenTest() {
    @Test
    fun importsThroughThePickerAndShowsWhatItNeeds() {
        screen().use { controller ->
            val screen = controller.get()
            waitFor("the list") { screen.isShown(R.id.empty) }
            screen.pick("wiki") { Inputs.textModel.inputStream() }
            waitForImport()
            assertEquals(ImportState.None, app.imports.state)
            waitFor("the card") { screen.findViewById<ViewGroup>(R.id.bundles).childCount == 1 }
            val card = screen.findViewById<ViewGroup>(R.id.bundles).getChildAt(0)
            assertEquals("wiki-6m", card.findViewById<TextView>(R.id.name).text.toString())
            val fit = card.findViewById<TextView>(R.id.fit).text.toString()
            assertTrue(fit, Regex("""Fits: needs \d\.\d MB of memory at most""").matches(fit))
            assertFalse(screen.isShown(R.id.empty))
            val directory = stored().single().directory
            assertTrue("decoded by the runner", File(directory, "weights.cache").length() > 0)
            assertTrue("nothing else is left", partials().isEmpty())
        }
    }

    /** The clock is Robolectric's, which stands until it is told to go on. */
    @Test
    fun saysHowLongItStillTakes() {
        val gates = List(2) { CountDownLatch(1) }
        val source = object : FilterInputStream(Inputs.textModel.inputStream()) {
            private var given = 0

            override fun read(buffer: ByteArray, offset: Int, count: Int): Int {
                if (given > 1_000_000) gates[0].await()
                if (given > 2_000_000) gates[1].await()
                if (given > 1_000_000) Thread.sleep(150) // progress is told ten times a second
                return super.read(buffer, offset, count).also { given += it }
            }
        }
        screen().use { controller ->
            val screen = controller.get()
            screen.pick("wiki") { source }
            waitFor("its begin") { (app.imports.state as? ImportState.Running)?.progress != null }
            assertFalse("not known yet", screen.isShown(R.id.import_left))
            shadowOf(Looper.getMainLooper()).idleFor(Duration.ofSeconds(15))
            gates[0].countDown()
            waitFor("the time") { screen.isShown(R.id.import_left) }
            assertEquals("Less than a minute left", screen.text(R.id.import_left))
            gates[1].countDown()
            waitForImport()
            idle()
            assertFalse(screen.isShown(R.id.import_card))
        }
        assertEquals(listOf("Less than a minute left", "About 59 minutes left", "1 h left at most", "2 h left at most"), listOf(1, 59, 60, 61).map(app::timeLeftText))
    }

    @Test
    fun deletesAfterAsking() {
        val bundle = imported(Inputs.textModel)
        screen().use { controller ->
            idle()
            val card = controller.get().findViewById<ViewGroup>(R.id.bundles).getChildAt(0)
            card.findViewById<View>(R.id.delete).performClick()
            val dialog = org.robolectric.shadows.ShadowAlertDialog.getLatestAlertDialog()
            assertTrue(bundle.directory.exists())
            dialog.getButton(android.app.AlertDialog.BUTTON_POSITIVE).performClick()
            waitFor("the deletion") { !bundle.directory.exists() }
            waitFor("the list") { controller.get().isShown(R.id.empty) }
            waitFor("nothing is left") { partials().isEmpty() }
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
            assertTrue("nothing was copied", partials().isEmpty() && stored().isEmpty())
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
            assertTrue(stored().isEmpty())
            controller.get().press(R.id.import_stop)
            waitFor("it is discarded") { partials().isEmpty() }
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
        assertTrue(stored().isEmpty())
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
        // As after the app was closed: it starts again, knows of the import and goes on with it when asked.
        val again = ImportTask(app)
        waitFor("the record") { again.state == ImportState.Interrupted }
        again.retry()
        waitFor("the import") { again.state !is ImportState.Running }
        assertEquals(ImportState.None, again.state)
        assertEquals(2, opened)
        assertEquals(1, stored().size)
    }

    @Test
    fun aDiskThatFillsUpMeanwhileIsCalledThat() {
        val error = assertThrows(ImportError::class.java) {
            val source = Failing(Inputs.textModel.inputStream(), 1_500_000, "write failed: ENOSPC (No space left on device)")
            import(source)
        }
        assertTrue("$error", error is ImportError.DiskFull)
    }

    @Test
    fun stopKeepsWhatWasCopied() {
        val error = assertThrows(ImportError::class.java) {
            var asked = 0
            import(Inputs.textModel.inputStream()) { asked++ > 4 }
        }
        assertTrue(error is ImportError.Stopped)
        assertEquals(1, partials().size)
        imported(Inputs.textModel)
        assertTrue(partials().isEmpty())
    }
}
