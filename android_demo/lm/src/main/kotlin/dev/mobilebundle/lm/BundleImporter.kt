package dev.mobilebundle.lm

import android.content.ContentResolver
import android.net.Uri
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest
import java.util.function.Consumer
import java.util.zip.ZipEntry
import java.util.zip.ZipException
import java.util.zip.ZipInputStream

/**
 * How far an import is, in bytes of the bundle's files or, while [installing], of decoded weights. [keptBytes]: of
 * [doneBytes], what an earlier import had copied.
 */
data class ImportProgress(
    val name: String,
    val doneBytes: Long,
    val totalBytes: Long,
    val installing: Boolean,
    val keptBytes: Long = 0,
)

/**
 * Copies a NAME.mbundle.zip (`mobile-bundle pack`) into a [BundleStore], checking everything on the way, and has the
 * runner decode what is stored in coded form. Call it on a thread of its own.
 *
 * The ZIP is read once, forwards, from wherever it comes; the manifest, its first entry, decides at once whether this phone
 * can take it. The bundle gets its name when it is whole. An import that was killed or stopped goes on where it was.
 */
class BundleImporter @JvmOverloads constructor(
    private val store: BundleStore,
    private val memory: DeviceMemory,
    private val program: File,
    private val progress: Consumer<ImportProgress> = Consumer { },
    private val stopped: () -> Boolean = { false },
) {
    private lateinit var manifest: BundleManifest
    private var done = 0L
    private var keptBytes = 0L
    private var toldAt = 0L

    /**
     * ImportError says why it ended without a bundle, whatever the file holds and whatever its provider throws. [source] is
     * closed. Another import into the store is waited for.
     */
    @Throws(ImportError::class)
    fun import(source: InputStream): StoredBundle {
        checkWorker()
        try {
            return ZipInputStream(source.buffered(COPY_BYTES)).use { zip -> store.exclusively(stopped) { take(zip) } }
        } catch (e: ImportError) {
            throw e
        } catch (e: ZipException) {
            throw ImportError.NotABundle(e.message ?: "not a ZIP", e)
        } catch (e: IOException) {
            throw if (noSpace(e)) diskFull() else ImportError.Unreadable(e.message ?: e.toString(), e)
        } catch (e: RuntimeException) {
            // The source is another app's: what it throws is not for this one to know.
            throw ImportError.Unreadable(e.toString(), e)
        }
    }

    private fun take(zip: ZipInputStream): StoredBundle {
        val bytes = readManifest(zip)
        manifest = parse(bytes)
        val directory = prepare(bytes)
        checkRoom(directory)
        copyParts(zip, directory)
        if (manifest.needsInstall) install(directory)
        return finish(directory, bytes)
    }

    private fun readManifest(zip: ZipInputStream): ByteArray {
        val entry = next(zip) ?: throw ImportError.NotABundle("not a ZIP, or an empty one")
        if (entry.name != BundleManifest.FILE) throw ImportError.NotABundle("its first entry is not ${BundleManifest.FILE}")
        val bytes = zip.readAtMost(BundleManifest.MOST_BYTES + 1)
        if (bytes.size > BundleManifest.MOST_BYTES) throw ImportError.NotABundle("its manifest is too large")
        return bytes
    }

    private fun parse(bytes: ByteArray): BundleManifest {
        val manifest = try {
            BundleManifest.parse(bytes)
        } catch (e: IOException) {
            throw ImportError.NotABundle(e.message ?: "", e)
        }
        val fit = MemoryFit.of(manifest, memory)
        if (fit.verdict == MemoryFit.Verdict.TOO_LARGE) throw ImportError.DoesNotFit(fit)
        return manifest
    }

    /** The directory to fill. What an earlier import of the very same bundle left in it is kept. */
    private fun prepare(bytes: ByteArray): File {
        val directory = store.partial(manifest.id)
        val marker = File(directory, MARKER)
        if (!marker.isFile || !marker.readBytes().contentEquals(bytes)) {
            directory.deleteRecursively()
            if (!directory.mkdirs()) throw IOException("cannot make ${directory.name}")
            marker.writeBytes(bytes)
        }
        return directory
    }

    private fun checkRoom(directory: File) {
        val there = manifest.parts.sumOf { File(directory, it.name).length() + File(directory, it.name + PARTIAL).length() }
        val needed = manifest.installedBytes - there
        val free = store.freeBytes()
        if (needed + SPARE_BYTES > free) throw ImportError.DiskFull(needed + SPARE_BYTES, free)
    }

    private fun copyParts(zip: ZipInputStream, directory: File) {
        val missing = manifest.parts.associateByTo(HashMap()) { it.name }
        generateSequence { next(zip) }.forEach { entry ->
            missing.remove(entry.name)?.let { copy(zip, it, directory) }
        }
        missing.keys.firstOrNull()?.let { throw ImportError.Damaged(it) }
    }

    private fun copy(zip: InputStream, part: BundleManifest.Part, directory: File) {
        val target = File(directory, part.name)
        if (target.length() == part.bytes && target.isFile) {
            zip.skipFully(part.bytes, part)
            keptBytes += part.bytes
            return tell(part.bytes)
        }
        target.parentFile?.mkdirs()
        val partial = File(directory, part.name + PARTIAL)
        val digest = MessageDigest.getInstance("SHA-256")
        val kept = keep(partial, part, digest)
        zip.skipFully(kept, part)
        keptBytes += kept
        tell(kept)
        var left = part.bytes - kept
        val buffer = ByteArray(COPY_BYTES)
        FileOutputStream(partial, true).use { out ->
            while (left >= 0) {
                checkStopped()
                val count = zip.read(buffer)
                if (count < 0) break
                left -= count
                if (left < 0) break
                digest.update(buffer, 0, count)
                out.write(buffer, 0, count)
                tell(count.toLong())
            }
            out.fd.sync()
        }
        if (left != 0L || digest.digest().hex() != part.sha256) {
            partial.delete()
            throw ImportError.Damaged(part.name)
        }
        if (!partial.renameTo(target)) throw IOException("cannot rename ${partial.name}")
    }

    /** How many bytes an earlier import has written, which are in the digest then. */
    private fun keep(partial: File, part: BundleManifest.Part, digest: MessageDigest): Long {
        if (!partial.isFile || partial.length() > part.bytes) {
            partial.delete()
            return 0
        }
        val buffer = ByteArray(COPY_BYTES)
        partial.inputStream().use { file ->
            while (true) {
                checkStopped()
                val count = file.read(buffer)
                if (count < 0) break
                digest.update(buffer, 0, count)
            }
        }
        return partial.length()
    }

    private fun InputStream.skipFully(bytes: Long, part: BundleManifest.Part) {
        var left = bytes
        while (left > 0) {
            checkStopped()
            val count = skip(minOf(left, COPY_BYTES.toLong()))
            if (count <= 0) throw ImportError.Damaged(part.name)
            left -= count
        }
    }

    private fun install(directory: File) {
        val free = store.freeBytes()
        var full: ImportError.DiskFull? = null
        val failure = runOnce(program, listOf("install", directory.path, "--json"), { full != null || stopped() }) { event ->
            if (event is RunnerEvent.Install) {
                // What the weights really decode to, which the manifest may have understated.
                val needed = event.totalBytes + SPARE_BYTES
                if (needed > free) full = ImportError.DiskFull(needed, free)
                tell(ImportProgress(manifest.name, event.doneBytes, event.totalBytes, installing = true))
            }
        }
        // A small model may be decoded before it could be stopped: that it would not have fitted does not depend on it.
        full?.let { throw it }
        failure?.let { throw if (stopped()) ImportError.Stopped() else ImportError.NotInstalled(it) }
    }

    private fun finish(directory: File, bytes: ByteArray): StoredBundle {
        File(directory, BundleManifest.FILE).writeSynced(bytes)
        File(directory, MARKER).delete()
        val target = store.commit(directory, manifest.id)
        return StoredBundle(target, manifest, store.bytesOf(target))
    }

    private fun tell(bytes: Long) {
        done += bytes
        tell(ImportProgress(manifest.name, done, manifest.bytes, installing = false, keptBytes))
    }

    /** At most ten times a second: whoever draws it has other things to do. */
    private fun tell(now: ImportProgress) {
        val time = System.nanoTime()
        if (toldAt != 0L && time - toldAt < TELL_EVERY_NANOSECONDS) return
        toldAt = time
        progress.accept(now)
    }

    private fun checkStopped() {
        if (stopped()) throw ImportError.Stopped()
    }

    private fun noSpace(e: IOException) = e.message.orEmpty().let { "ENOSPC" in it || "No space left" in it }

    private fun diskFull() = ImportError.DiskFull(manifest.installedBytes - done, store.freeBytes())

    /** The next entry that is a file. ZipInputStream throws IllegalArgumentException for a name that is not UTF-8. */
    private fun next(zip: ZipInputStream): ZipEntry? = try {
        generateSequence { zip.nextEntry }.firstOrNull { !it.isDirectory }
    } catch (e: IllegalArgumentException) {
        throw ImportError.NotABundle("the name of a file in it is not UTF-8", e)
    }

    private companion object {
        const val TELL_EVERY_NANOSECONDS = 100_000_000L
        const val MARKER = ".importing"
        const val COPY_BYTES = 1 shl 18

        /** Left to the phone: a disk that is full to the last byte makes everything fail. */
        const val SPARE_BYTES = 64L shl 20
    }
}

private fun InputStream.readAtMost(most: Int): ByteArray {
    val out = java.io.ByteArrayOutputStream()
    val buffer = ByteArray(8192)
    while (out.size() < most) {
        val count = read(buffer, 0, minOf(buffer.size, most - out.size()))
        if (count < 0) break
        out.write(buffer, 0, count)
    }
    return out.toByteArray()
}

/** Opens what another app hands over. It may throw what it likes: all of it is ImportError here. */
@Throws(ImportError::class)
fun ContentResolver.openBundle(uri: Uri): InputStream {
    try {
        return openInputStream(uri) ?: throw ImportError.Unreadable(uri.toString())
    } catch (e: ImportError) {
        throw e
    } catch (e: IOException) {
        throw ImportError.Unreadable(e.message ?: uri.toString(), e)
    } catch (e: RuntimeException) {
        throw ImportError.Unreadable(e.message ?: uri.toString(), e)
    }
}
