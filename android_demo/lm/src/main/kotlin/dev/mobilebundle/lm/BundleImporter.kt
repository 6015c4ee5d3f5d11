package dev.mobilebundle.lm

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest
import java.util.zip.ZipEntry
import java.util.zip.ZipException
import java.util.zip.ZipInputStream

/** How far an import is, in bytes of the bundle's files or, while [installing], of decoded weights. */
data class ImportProgress(val name: String, val doneBytes: Long, val totalBytes: Long, val installing: Boolean)

/**
 * Copies a NAME.mbundle.zip (`mobile-bundle pack`) into a [BundleStore], checking everything on the way, and has the
 * runner decode what is stored in coded form. Call it on a thread of its own.
 *
 * The ZIP is read once, forwards, from wherever it comes; the manifest, its first entry, decides at once whether this phone
 * can take it. The bundle gets its name when it is whole. An import that was killed or stopped goes on where it was.
 */
class BundleImporter(
    private val store: BundleStore,
    private val memory: DeviceMemory,
    private val program: File,
    private val progress: (ImportProgress) -> Unit = {},
    private val stopped: () -> Boolean = { false },
) {
    private lateinit var manifest: BundleManifest
    private var done = 0L

    /** ImportError says why it ended without a bundle. [source] is closed. */
    @Throws(ImportError::class)
    fun import(source: InputStream): StoredBundle {
        try {
            ZipInputStream(source.buffered(COPY_BYTES)).use { zip ->
                val text = readManifest(zip)
                manifest = parse(text)
                val directory = prepare(text)
                checkRoom(directory)
                copyParts(zip, directory)
                if (manifest.needsInstall) install(directory)
                return finish(directory, text)
            }
        } catch (e: ImportError) {
            throw e
        } catch (e: ZipException) {
            throw ImportError.NotABundle(e.message ?: "not a ZIP", e)
        } catch (e: IOException) {
            throw if (noSpace(e)) diskFull() else ImportError.Unreadable(e.message ?: e.toString(), e)
        }
    }

    private fun readManifest(zip: ZipInputStream): String {
        val entry = zip.nextEntry ?: throw ImportError.NotABundle("not a ZIP, or an empty one")
        if (entry.name != BundleManifest.FILE) throw ImportError.NotABundle("its first entry is not ${BundleManifest.FILE}")
        val bytes = zip.readAtMost(BundleManifest.MOST_BYTES + 1)
        if (bytes.size > BundleManifest.MOST_BYTES) throw ImportError.NotABundle("its manifest is too large")
        return String(bytes)
    }

    private fun parse(text: String): BundleManifest {
        val manifest = try {
            BundleManifest.parse(text)
        } catch (e: IOException) {
            throw ImportError.NotABundle(e.message ?: "", e)
        }
        val fit = MemoryFit.of(manifest, memory)
        if (fit.verdict == MemoryFit.Verdict.TOO_LARGE) throw ImportError.DoesNotFit(fit)
        return manifest
    }

    /** The directory to fill. What an earlier import of the very same bundle left in it is kept. */
    private fun prepare(text: String): File {
        val directory = File(store.root, ".${manifest.id}$PARTIAL")
        val marker = File(directory, MARKER)
        if (!marker.isFile || marker.readText() != text) {
            directory.deleteRecursively()
            if (!directory.mkdirs()) throw IOException("cannot make ${directory.name}")
            marker.writeText(text)
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
        if (target.length() == part.bytes && target.isFile) return tell(part.bytes)
        target.parentFile?.mkdirs()
        val partial = File(directory, part.name + PARTIAL)
        val digest = MessageDigest.getInstance("SHA-256")
        val kept = keep(partial, part, digest)
        zip.skipFully(kept, part)
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
        done = 0
        runOnce(program, listOf("install", directory.path, "--json"), stopped) { event ->
            if (event is RunnerEvent.Install) {
                progress(ImportProgress(manifest.name, event.doneBytes, event.totalBytes, installing = true))
            }
        }?.let { throw if (stopped()) ImportError.Stopped() else ImportError.NotInstalled(it) }
    }

    private fun finish(directory: File, text: String): StoredBundle {
        File(directory, BundleManifest.FILE).writeTextSynced(text)
        File(directory, MARKER).delete()
        store.delete(manifest.id)
        val target = File(store.root, manifest.id)
        if (!directory.renameTo(target)) throw IOException("cannot rename ${directory.name}")
        return StoredBundle(target, manifest)
    }

    private fun tell(bytes: Long) {
        done += bytes
        progress(ImportProgress(manifest.name, done, manifest.bytes, installing = false))
    }

    private fun checkStopped() {
        if (stopped()) throw ImportError.Stopped()
    }

    private fun noSpace(e: IOException) = e.message.orEmpty().let { "ENOSPC" in it || "No space left" in it }

    private fun diskFull() = ImportError.DiskFull(manifest.installedBytes - done, store.freeBytes())

    private companion object {
        const val PARTIAL = ".part"
        const val MARKER = ".importing"
        const val COPY_BYTES = 1 shl 18

        /** Left to the phone: a disk that is full to the last byte makes everything fail. */
        const val SPARE_BYTES = 64L shl 20
    }
}

/** The next entry that is a file. */
private fun next(zip: ZipInputStream): ZipEntry? = generateSequence { zip.nextEntry }.firstOrNull { !it.isDirectory }

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

private fun File.writeTextSynced(text: String) = FileOutputStream(this).use {
    it.write(text.toByteArray())
    it.fd.sync()
}

private fun ByteArray.hex() = joinToString("") { "%02x".format(it) }
