package dev.mobilebundle.demo

import android.app.AlertDialog
import android.content.Intent
import android.net.Uri
import android.view.ViewGroup
import dev.mobilebundle.demo.ui.ModelsActivity
import dev.mobilebundle.lm.BundleImporter
import dev.mobilebundle.lm.BundleManifest
import dev.mobilebundle.lm.ImportError
import java.io.ByteArrayInputStream
import java.io.File
import java.io.IOException
import java.io.InputStream
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.Robolectric
import org.robolectric.Shadows.shadowOf
import org.robolectric.shadows.ShadowAlertDialog

/** The faults of the review that importing had (docs/ANDROID.md has the list), each by its number. */
class ImportFaultsTest : ImportScreenTest() {
    /** As the system's kill: no more of the thread runs, and nothing is tidied up by it. */
    private class Killed : Error("killed")

    private val killedHalfway: () -> InputStream = { Failing(Inputs.textModel.inputStream(), 1_500_000, Killed()) }

    /** Starts an import that dies with its process. */
    private fun kill(uri: Uri) {
        val before = Thread.getDefaultUncaughtExceptionHandler()
        val died = java.util.concurrent.CountDownLatch(1)
        Thread.setDefaultUncaughtExceptionHandler { _, e -> if (e is Killed) died.countDown() else before?.uncaughtException(Thread.currentThread(), e) }
        try {
            ImportTask(app).start(uri)
            assertTrue(died.await(30, java.util.concurrent.TimeUnit.SECONDS))
        } finally {
            Thread.setDefaultUncaughtExceptionHandler(before)
        }
    }

    private fun restarted(): ImportTask {
        val task = ImportTask(app)
        waitFor("the start") { task.state != ImportState.None }
        return task
    }

    private fun failure(name: String, open: () -> InputStream): ImportError {
        app.imports.start(picked(name, open))
        waitForImport()
        return (app.imports.state as ImportState.Failed).error
    }

    /** The packed model with a manifest in which some text is another. */
    private fun manifest(change: (String) -> String) = changed("manifest.json") { change(String(it)).toByteArray() }

    /** A ZIP of one stored entry whose name is any bytes. */
    private fun zipNamed(name: ByteArray): ByteArray {
        val out = java.io.ByteArrayOutputStream()
        fun number(value: Int, bytes: Int) = repeat(bytes) { out.write(value shr (8 * it)) }
        number(0x04034b50, 4)
        number(20, 2)
        number(0x0800, 2) // the name is said to be UTF-8
        number(0, 2)
        number(0, 4)
        number(0, 4)
        number(0, 4)
        number(0, 4)
        number(name.size, 2)
        number(0, 2)
        out.write(name)
        return out.toByteArray()
    }

    @Test
    fun fault1aNameThatIsNotUtf8() {
        for (name in listOf(byteArrayOf(0x81.toByte(), 0xff.toByte()), "Modèle".toByteArray(Charsets.ISO_8859_1))) {
            assertTrue(failure("cp437") { zipNamed(name).inputStream() } is ImportError.NotABundle)
        }
        assertEquals("it does not go on by itself", ImportState.Interrupted, restarted().state)
    }

    @Test
    fun fault1nestedJson() {
        val deep = "[".repeat(2_000_000)
        assertTrue(failure("deep") { manifest { deep }.inputStream() } is ImportError.NotABundle)
        assertTrue(failure("deeper") { manifest { it.trimEnd().dropLast(1) + ", \"x\": $deep" }.inputStream() } is ImportError.NotABundle)
        // What JSONObject would read, too: a string that hides the brackets from whoever counts them.
        assertTrue(failure("quoted") { manifest { "{'\"': $deep" }.inputStream() } is ImportError.NotABundle)
    }

    @Test
    fun fault1aProviderThatThrows() {
        assertTrue(failure("open") { throw IllegalStateException("the provider is broken") } is ImportError.Unreadable)
        val read = { Failing(Inputs.textModel.inputStream(), 100_000, UnsupportedOperationException("odd")) }
        assertTrue(failure("read", read) is ImportError.Unreadable)
        assertTrue(failure("null") { throw NullPointerException() } is ImportError.Unreadable)
    }

    @Test
    fun fault1onlyAKillGoesOnByItselfAndOnlyOnce() {
        var opened = 0
        kill(picked("wiki") { opened++; killedHalfway() })
        assertEquals(1, partials().size)
        // The second start goes on by itself, and is killed by the file again; the third leaves it to the user.
        var died = false
        val before = Thread.getDefaultUncaughtExceptionHandler()
        Thread.setDefaultUncaughtExceptionHandler { _, e -> if (e is Killed) died = true }
        val second = restarted()
        waitFor("its end") { died }
        Thread.setDefaultUncaughtExceptionHandler(before)
        assertEquals(2, opened)
        assertTrue(second.state is ImportState.Running)
        val third = restarted()
        assertEquals(ImportState.Interrupted, third.state)
        idle()
        assertEquals("not again", 2, opened)
        third.discard()
        waitFor("it is discarded") { partials().isEmpty() && !File(app.filesDir, "import.json").exists() }
    }

    @Test
    fun fault1theKilledImportIsWholeAfterTheRestart() {
        var opened = 0
        kill(picked("wiki") { if (opened++ == 0) killedHalfway() else Inputs.textModel.inputStream() })
        val task = restarted()
        waitFor("the import") { task.state == ImportState.None }
        assertEquals(2, opened)
        assertEquals(1, stored().size)
        assertTrue(partials().isEmpty())
    }

    @Test
    fun fault4twoSizesOfOneModelLieSideBySide() {
        val one = imported(Inputs.textModel)
        val other = import(manifest { it.replace("\"notes\": [", "\"notes\": [\"another budget\", ") }.inputStream())
        assertEquals(one.manifest.name, other.manifest.name)
        assertEquals(one.manifest.recipe, other.manifest.recipe)
        assertNotEquals(one.id, other.id)
        assertEquals(2, stored().size)
        assertEquals("the same file is the same bundle", one.id, imported(Inputs.textModel).id)
        assertEquals(2, stored().size)
        // Names that are the same once they are cleaned for the disk.
        val odd = listOf("a/b", "a?b", "../..", "").map { name ->
            import(manifest { it.replace("\"name\": \"wiki-6m\"", "\"name\": \"$name\"") }.inputStream()).id
        }
        assertEquals(odd.size, odd.toSet().size)
        assertEquals(2 + odd.size, stored().size)
    }

    @Test
    fun fault6theMainThreadIsLeftAlone() {
        imported(Inputs.textModelPacked)
        imported(Inputs.chatModel)
        Robolectric.buildActivity(ModelsActivity::class.java).setup().use {
            var told = 0
            app.imports.observe { told++ }
            val begin = System.nanoTime()
            app.imports.start(picked("wiki") { Inputs.textModel.inputStream() })
            var busy = 0L
            waitFor("the import") {
                val start = System.nanoTime()
                idle()
                busy += System.nanoTime() - start
                app.imports.state !is ImportState.Running
            }
            println("the main thread was busy for ${busy / 1_000_000} of ${(System.nanoTime() - begin) / 1_000_000} ms")
            val tenths = ((System.nanoTime() - begin) / 100_000_000).toInt()
            assertTrue("$told events in $tenths tenths of a second", told <= tenths + 4)
        }
        assertThrows("no list on the main thread", IllegalStateException::class.java) { app.store.list() }
        assertThrows("nor an import", IllegalStateException::class.java) {
            BundleImporter(app.store, app.memory(), app.program).import(ByteArrayInputStream(ByteArray(0)))
        }
    }

    @Test
    fun fault8aStoppedImportDoesNotGoOnByItself() {
        val go = java.util.concurrent.CountDownLatch(1)
        var opened = 0
        app.imports.start(
            picked("wiki") {
                opened++
                object : java.io.FilterInputStream(Inputs.textModel.inputStream()) {
                    private var given = 0

                    override fun read(buffer: ByteArray, offset: Int, count: Int): Int {
                        if (given > 1_500_000) go.await()
                        return super.read(buffer, offset, count).also { given += it }
                    }
                }
            },
        )
        waitFor("half of it") { (app.imports.state as? ImportState.Running)?.progress != null }
        app.imports.stop()
        go.countDown()
        waitForImport()
        assertTrue((app.imports.state as ImportState.Failed).error is ImportError.Stopped)
        val again = restarted()
        idle()
        assertEquals(ImportState.Interrupted, again.state)
        assertEquals(1, opened)
        again.retry()
        waitFor("the import") { again.state !is ImportState.Running }
        assertEquals("what was copied was not lost", 1, stored().size)
    }

    @Test
    fun fault9nothingIsLeftOfAnImportThatAnotherFollows() {
        assertThrows(ImportError.Stopped::class.java) {
            var asked = 0
            import(Inputs.chatModel.inputStream()) { asked++ > 4 }
        }
        val first = partials().single()
        imported(Inputs.textModel)
        assertFalse(first.exists())
        assertTrue(partials().isEmpty())
    }

    @Test
    fun fault9leftoversAreFoundAtTheStart() {
        val bundle = imported(Inputs.textModel)
        File(app.store.root, ".old.part/weights.ptd").apply { parentFile!!.mkdirs() }.writeText("left")
        File(app.store.root, "half-deleted/weights.ptd").apply { parentFile!!.mkdirs() }.writeText("left")
        ImportTask(app)
        waitFor("they are gone") { app.store.root.list().orEmpty().toList() == listOf(bundle.id) }
    }

    @Test
    fun fault15aManifestThatLiesAboutItsSize() {
        val lies = listOf(
            manifest { it.replace(Regex("\"bytes\": \\d+,(\\s+\"bits)"), "\"bytes\": 1000,$1") },
            manifest { it.replace(Regex("\"bytes\": \\d+,(\\s+\"bits)"), "\"bytes\": 9000000000000000000,$1") },
            manifest { it.replace(Regex("\"kv_bytes_per_token\": \\d+"), "\"kv_bytes_per_token\": 9000000000000000000") },
            manifest { it.replace(Regex("\"peak_bytes\": \\d+"), "\"peak_bytes\": -1") },
        )
        for (lie in lies) assertTrue("${importError(lie)}", importError(lie) is ImportError.NotABundle)
        assertTrue(partials().isEmpty())
    }

    @Test
    fun fault15aManifestThatLiesAboutWhatIsDecoded() {
        val small = manifest { it.replace(Regex("\"file_bytes\": \\d+"), "\"file_bytes\": 1") }
        // What other apps write meanwhile: the disk is nearly full when the decoding begins.
        val error = assertThrows(ImportError::class.java) {
            off {
                BundleImporter(app.store, app.memory(), app.program, progress = { disk(freeBytes = 66_000_000) }).import(small.inputStream())
            }
        }
        assertTrue("$error", error is ImportError.DiskFull)
        waitFor("the end of the decoding") { children().isEmpty() }
    }

    @Test
    fun aFileOfAnotherAppIsImportedAfterAsking() {
        val uri = picked("shared") { Inputs.textModel.inputStream() }
        for (intent in listOf(Intent(Intent.ACTION_VIEW).setData(uri), Intent(Intent.ACTION_SEND).putExtra(Intent.EXTRA_STREAM, uri))) {
            Robolectric.buildActivity(ModelsActivity::class.java, intent).setup().use {
                val dialog = ShadowAlertDialog.getLatestAlertDialog()
                assertTrue(dialog.isShowing)
                assertEquals("nothing before the answer", ImportState.None, app.imports.state)
                dialog.getButton(AlertDialog.BUTTON_POSITIVE).performClick()
                idle()
                waitForImport()
                assertEquals(1, stored().size)
            }
        }
    }

    @Test
    fun aPathThatAnotherAppNamesIsNotRead() {
        val secret = File(app.filesDir, "import.json").apply { writeText("mine") }
        ShadowAlertDialog.reset()
        val intent = Intent(Intent.ACTION_VIEW).setData(Uri.fromFile(secret))
        Robolectric.buildActivity(ModelsActivity::class.java, intent).setup().use { assertEquals(null, ShadowAlertDialog.getLatestAlertDialog()) }
        secret.delete()
    }

    @Test
    fun aModelIsSentToAnotherPhoneAndImportedThere() {
        val bundle = imported(Inputs.textModel)
        screen().use { controller ->
            waitFor("the card") { controller.get().findViewById<ViewGroup>(R.id.bundles).childCount == 1 }
            controller.get().findViewById<ViewGroup>(R.id.bundles).getChildAt(0).findViewById<android.view.View>(R.id.send_bundle).performClick()
            val chooser = shadowOf(controller.get()).nextStartedActivity
            @Suppress("DEPRECATION")
            val intent = chooser.getParcelableExtra<Intent>(Intent.EXTRA_INTENT)!!
            assertTrue(intent.flags and Intent.FLAG_GRANT_READ_URI_PERMISSION != 0)
            @Suppress("DEPRECATION")
            assertEquals("content://dev.mobilebundle.demo.bundles/${bundle.id}", intent.getParcelableExtra<Uri>(Intent.EXTRA_STREAM).toString())
        }
        val file = java.io.ByteArrayOutputStream()
        off { dev.mobilebundle.lm.BundleExporter(bundle).write(file) }
        off { app.store.delete(bundle.id) }
        assertEquals("the very same bundle", bundle.id, import(file.toByteArray().inputStream()).id)
        val provider = Robolectric.setupContentProvider(BundleProvider::class.java, "dev.mobilebundle.demo.bundles")
        val uri = Uri.parse("content://dev.mobilebundle.demo.bundles/${bundle.id}")
        off { provider.query(uri, arrayOf("_display_name", "_size"), null, null, null) }.use {
            assertTrue(it.moveToFirst())
            assertEquals("wiki-6m.mbundle.zip", it.getString(0))
        }
        for (bad in listOf("no-such-bundle", "..", ".x")) {
            assertThrows(java.io.FileNotFoundException::class.java) { off { provider.openFile(Uri.parse("content://x/$bad"), "r") } }
        }
        assertThrows(java.io.FileNotFoundException::class.java) { off { provider.openFile(uri, "w") } }
    }

    @Test
    fun theFirstScreenSaysWhatFits() {
        screen().use { controller ->
            waitFor("the list") { controller.get().isShown(R.id.empty) }
            val said = controller.get().text(R.id.largest)
            assertTrue(said, said.contains("1.0 GB") && said.contains("1.6 B"))
            assertTrue(controller.get().findViewById<ViewGroup>(R.id.empty).childCount >= 6)
        }
    }

    @Test
    fun theFirstScreenLeadsToModels() {
        screen().use { controller ->
            waitFor("the list") { controller.get().isShown(R.id.empty) }
            controller.get().press(R.id.models_link)
            val asked = shadowOf(controller.get()).nextStartedActivity
            assertEquals(Intent.ACTION_VIEW, asked.action)
            assertEquals(app.getString(R.string.models_address), asked.dataString)
            shadowOf(app).checkActivities(true) // as on a phone without a browser
            controller.get().press(R.id.models_link)
            val shown = shadowOf(ShadowAlertDialog.getLatestAlertDialog()).message
            assertEquals("the address, to be copied", app.getString(R.string.models_address), shown)
        }
    }

    @Test
    fun aDiskThatTakesNoRecordIsCalledFull() {
        File(app.filesDir, "import.json").mkdirs()
        try {
            assertTrue(failure("wiki") { Inputs.textModel.inputStream() } is ImportError.DiskFull)
        } finally {
            File(app.filesDir, "import.json").delete()
        }
    }

    @Test
    fun damagedFilesThatCannotBeReadAgainAreNoBundle() {
        val bundle = imported(Inputs.textModel)
        File(bundle.directory, "manifest.json").writeText("[".repeat(500_000))
        assertTrue(stored().isEmpty())
        assertThrows(IOException::class.java) { off { BundleManifest.read(bundle.directory) } }
    }
}
