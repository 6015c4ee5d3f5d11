package dev.mobilebundle.demo

import android.Manifest
import android.app.AlertDialog
import android.view.View
import android.widget.EditText
import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import dev.mobilebundle.lm.ImportError
import java.io.File
import java.net.InetAddress
import java.net.InetSocketAddress
import java.security.MessageDigest
import org.junit.After
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.Shadows.shadowOf
import org.robolectric.shadows.ShadowAlertDialog

/** Downloads from a server on this machine that can break off, change its file, and forget how to give a part of it. */
class DownloadTest : ImportScreenTest() {
    private val folder get() = File(app.filesDir, "downloads")
    private val ranges = ArrayList<String?>()
    private var content = Inputs.textModel.readBytes()
    private var tag = "\"one\""
    private var breakAt = Int.MAX_VALUE
    private var sent = 0L

    private val server = HttpServer.create(InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0).apply {
        createContext("/model.mbundle.zip") { answer(it) }
        start()
    }

    @After
    fun endServer() = server.stop(0)

    private fun answer(exchange: HttpExchange) {
        val range = exchange.requestHeaders.getFirst("Range")
        ranges += range
        val same = exchange.requestHeaders.getFirst("If-Range") == tag
        val from = if (range != null && same) range.removePrefix("bytes=").removeSuffix("-").toInt() else 0
        exchange.responseHeaders.add("ETag", tag)
        if (from > 0) exchange.responseHeaders.add("Content-Range", "bytes $from-${content.size - 1}/${content.size}")
        exchange.sendResponseHeaders(if (from > 0) 206 else 200, (content.size - from).toLong())
        val end = minOf(content.size, breakAt)
        if (end > from) exchange.responseBody.write(content, from, end - from)
        sent += maxOf(0, end - from)
        exchange.close()
    }

    private fun sha256(bytes: ByteArray) = MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }

    private fun address(hash: String = sha256(content)) =
        "http://127.0.0.1:${server.address.port}/model.mbundle.zip#sha256=$hash"

    private fun fetch(address: String = address()) = off { Download(folder, address).fetch({ _, _ -> }, { false }).readBytes() }

    @Test
    fun oneThatWasCutOffGoesOnWhereItWas() {
        breakAt = 1_000_000
        assertThrows(ImportError.Unreadable::class.java) { fetch() }
        val kept = folder.listFiles()!!.single { it.name.endsWith(".part") }.length()
        assertTrue("$kept", kept in 500_000..1_000_000)
        breakAt = Int.MAX_VALUE
        assertArrayEquals(content, fetch())
        assertEquals(listOf(null, "bytes=$kept-"), ranges)
        assertEquals("no byte that was kept is sent again", content.size + 1_000_000 - kept, sent)
    }

    @Test
    fun aFileThatHasChangedMeanwhileIsFetchedAnew() {
        breakAt = 1_000_000
        assertThrows(ImportError.Unreadable::class.java) { fetch() }
        breakAt = Int.MAX_VALUE
        content = Inputs.chatModel.readBytes()
        tag = "\"two\""
        assertArrayEquals(content, fetch())
    }

    @Test
    fun aFileOfAnotherHashIsNotKept() {
        assertThrows(ImportError.Damaged::class.java) { fetch(address("0".repeat(64))) }
        assertEquals(emptyList<String>(), folder.list().orEmpty().toList())
    }

    @Test
    fun aFileThatIsNotThereOrTooLarge() {
        val error = assertThrows(ImportError.Unreadable::class.java) {
            fetch("http://127.0.0.1:${server.address.port}/nothing#sha256=${"0".repeat(64)}")
        }
        assertTrue(error.message, "404" in error.message!!)
        disk(freeBytes = 50_000_000)
        assertThrows(ImportError.DiskFull::class.java) { fetch() }
    }

    @Test
    fun whichAddressesAreSafe() {
        val hash = "#sha256=" + "a1".repeat(32)
        for (good in listOf("https://example.org/a.zip", " https://example.org/a.zip$hash ", "http://example.org/a.zip$hash")) {
            assertTrue(good, Download.address(good) != null)
        }
        for (bad in listOf("", "a.zip", "http://example.org/a.zip", "https://", "file:///etc/passwd$hash", "https://e.org/a#sha256=12", "ftp://e.org/a$hash")) {
            assertNull(bad, Download.address(bad))
        }
    }

    @Test
    fun fromTheScreenToAModel() {
        screen().use { controller ->
            assertFalse("not without the permission", controller.get().isShown(R.id.download))
            assertTrue(controller.get().isShown(R.id.first_private))
        }
        shadowOf(app).grantPermissions(Manifest.permission.INTERNET)
        screen().use { controller ->
            val screen = controller.get()
            assertFalse(screen.isShown(R.id.first_private))
            screen.press(R.id.download)
            typeAndConfirm("http://example.org/model.zip")
            assertEquals("refused", ImportState.None, app.imports.state)
            screen.press(R.id.download)
            typeAndConfirm(address())
            waitForImport()
            assertEquals(ImportState.None, app.imports.state)
            assertEquals(1, stored().size)
            assertFalse("the download itself is gone", folder.exists())
        }
    }

    private fun typeAndConfirm(text: String) {
        val dialog = ShadowAlertDialog.getLatestAlertDialog()
        dialog.findViewById<EditText>(R.id.address).setText(text)
        dialog.getButton(AlertDialog.BUTTON_POSITIVE).performClick()
        idle()
    }

    @Test
    fun oneThatBrokeOffWaitsToBeAsked() {
        breakAt = 1_000_000
        app.imports.start(Download.address(address())!!)
        waitForImport()
        assertTrue((app.imports.state as ImportState.Failed).error is ImportError.Unreadable)
        breakAt = Int.MAX_VALUE
        val again = ImportTask(app)
        waitFor("what was written down") { again.state == ImportState.Interrupted }
        again.retry()
        waitFor("the import") { !again.isRunning }
        assertEquals(1, stored().size)
        assertTrue("${ranges.last()}", ranges.last() != null)
    }
}
