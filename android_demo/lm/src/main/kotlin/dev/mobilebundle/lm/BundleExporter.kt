package dev.mobilebundle.lm

import java.io.File
import java.io.IOException
import java.io.OutputStream
import java.util.zip.Deflater
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream

/**
 * Writes a bundle as the NAME.mbundle.zip that [BundleImporter] reads, to be given to another phone: the manifest first, then
 * its files. What was decoded here is left out; nothing is compressed, as weights hardly shrink.
 */
class BundleExporter(private val bundle: StoredBundle) {
    /** [target] is closed. Reads files: not on the main thread. */
    @Throws(IOException::class)
    fun write(target: OutputStream) {
        checkWorker()
        ZipOutputStream(target.buffered()).use { zip ->
            zip.setLevel(Deflater.NO_COMPRESSION)
            for (name in listOf(BundleManifest.FILE) + bundle.manifest.parts.map { it.name }) {
                zip.putNextEntry(ZipEntry(name))
                File(bundle.directory, name).inputStream().use { it.copyTo(zip) }
                zip.closeEntry()
            }
        }
    }
}
