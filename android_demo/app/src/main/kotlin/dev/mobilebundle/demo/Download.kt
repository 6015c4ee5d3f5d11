package dev.mobilebundle.demo

import android.Manifest
import android.content.Context
import android.content.pm.PackageManager
import android.net.Uri
import dev.mobilebundle.lm.ImportError
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.net.HttpURLConnection
import java.net.URL
import java.security.MessageDigest

/**
 * A file of the network, fetched into the app's storage before it is imported; one at a time. A download that was cut off
 * goes on where it was, if the server says that the file is still the same (ETag).
 *
 * The address may end in `#sha256=` and 64 digits, which the file must have then. `http` needs that, as anybody on the way
 * could change the file; `https` does not.
 */
class Download(private val folder: File, address: String) {
    private val url = URL(address.substringBefore('#'))
    private val expected = address.substringAfter(MARK, "").lowercase()
    private val name = sha256(address.toByteArray())
    private val whole = File(folder, "$name.zip")
    private val part = File(folder, "$name.part")
    private val tag = File(folder, "$name.etag")

    /** The whole file. [progress]: bytes that are there, and of how many, -1 where the server does not say. */
    @Throws(ImportError::class)
    fun fetch(progress: (Long, Long) -> Unit, stopped: () -> Boolean): File {
        try {
            folder.mkdirs()
            for (other in folder.listFiles().orEmpty()) if (!other.name.startsWith(name)) other.delete()
            if (!whole.isFile) load(progress, stopped)
        } catch (e: ImportError) {
            throw e
        } catch (e: IOException) {
            throw ImportError.Unreadable(e.toString(), e)
        }
        return whole
    }

    private fun load(progress: (Long, Long) -> Unit, stopped: () -> Boolean) {
        val connection = url.openConnection() as HttpURLConnection
        connection.connectTimeout = TIMEOUT_MILLISECONDS
        connection.readTimeout = TIMEOUT_MILLISECONDS
        // Else it would be a stream of other bytes than the file's.
        connection.setRequestProperty("Accept-Encoding", "identity")
        val known = if (tag.isFile) tag.readText() else ""
        if (part.length() > 0 && known.isNotEmpty()) {
            connection.setRequestProperty("Range", "bytes=${part.length()}-")
            connection.setRequestProperty("If-Range", known)
        }
        try {
            val digest = MessageDigest.getInstance("SHA-256")
            val kept = begin(connection, digest)
            val length = connection.contentLengthLong
            val total = if (length < 0) -1 else kept + length
            checkRoom(length)
            connection.inputStream.use { copy(it, kept, total, digest, progress, stopped) }
            if (total >= 0 && part.length() != total) throw IOException("it ended after ${part.length()} of $total bytes")
            finish(digest)
        } finally {
            connection.disconnect()
        }
    }

    /** How much of the file is kept and in the digest, by what the server answers. */
    private fun begin(connection: HttpURLConnection, digest: MessageDigest): Long {
        val status = connection.responseCode
        val range = "bytes ${part.length()}-"
        if (status == HttpURLConnection.HTTP_PARTIAL && connection.getHeaderField("Content-Range").orEmpty().startsWith(range)) {
            part.inputStream().use { file -> file.forEachBlock { block, count -> digest.update(block, 0, count) } }
            return part.length()
        }
        part.delete()
        tag.delete()
        if (status != HttpURLConnection.HTTP_OK) throw IOException("the server answers $status ${connection.responseMessage.orEmpty()}")
        connection.getHeaderField("ETag")?.takeUnless { it.startsWith("W/") }?.let { tag.writeText(it) }
        return 0
    }

    private fun copy(
        source: InputStream,
        kept: Long,
        total: Long,
        digest: MessageDigest,
        progress: (Long, Long) -> Unit,
        stopped: () -> Boolean,
    ) {
        var done = kept
        var toldAt = 0L
        FileOutputStream(part, true).use { out ->
            source.forEachBlock { block, count ->
                if (stopped()) throw ImportError.Stopped()
                out.write(block, 0, count)
                digest.update(block, 0, count)
                done += count
                val now = System.nanoTime()
                if (now - toldAt > TELL_EVERY_NANOSECONDS) {
                    toldAt = now
                    progress(done, total)
                }
            }
            out.fd.sync()
        }
    }

    private fun finish(digest: MessageDigest) {
        val found = hex(digest.digest())
        if (expected.isNotEmpty() && found != expected) {
            part.delete()
            tag.delete()
            throw ImportError.Damaged(url.path.substringAfterLast('/'))
        }
        if (!part.renameTo(whole)) throw IOException("cannot rename ${part.name}")
        tag.delete()
    }

    private fun checkRoom(bytes: Long) {
        val free = android.os.StatFs(folder.path).availableBytes
        if (bytes + SPARE_BYTES > free) throw ImportError.DiskFull(bytes + SPARE_BYTES, free)
    }

    companion object {
        private const val MARK = "#sha256="
        private const val BLOCK_BYTES = 1 shl 16
        private const val TIMEOUT_MILLISECONDS = 30_000
        private const val TELL_EVERY_NANOSECONDS = 100_000_000L
        private const val SPARE_BYTES = 64L shl 20
        private val HASH = Regex("[0-9a-fA-F]{64}")

        /** Whether this flavour of the app may use the network. */
        fun isAllowed(context: Context) = context.checkSelfPermission(Manifest.permission.INTERNET) == PackageManager.PERMISSION_GRANTED

        /** The address as an URI; null where it is none that can be fetched safely. */
        fun address(text: String): Uri? {
            val uri = Uri.parse(text.trim())
            val hash = uri.fragment.orEmpty()
            val hashed = hash.startsWith("sha256=") && HASH.matches(hash.substringAfter('='))
            val safe = if (hash.isEmpty()) uri.scheme == "https" else hashed && uri.scheme in SCHEMES
            return uri.takeIf { safe && !it.host.isNullOrEmpty() }
        }

        val SCHEMES = listOf("https", "http")

        private fun sha256(bytes: ByteArray) = hex(MessageDigest.getInstance("SHA-256").digest(bytes))

        private fun hex(bytes: ByteArray) = bytes.joinToString("") { "%02x".format(it) }

        private fun InputStream.forEachBlock(take: (ByteArray, Int) -> Unit) {
            val block = ByteArray(BLOCK_BYTES)
            while (true) {
                val count = read(block)
                if (count < 0) return
                take(block, count)
            }
        }
    }
}
