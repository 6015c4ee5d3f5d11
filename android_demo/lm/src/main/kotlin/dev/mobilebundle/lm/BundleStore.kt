package dev.mobilebundle.lm

import android.os.StatFs
import java.io.File
import java.io.IOException

/** A bundle on the phone. */
data class StoredBundle(val directory: File, val manifest: BundleManifest) {
    val id: String get() = directory.name

    /** What it takes on the disk. */
    val diskBytes: Long get() = directory.walkTopDown().filter { it.isFile }.sumOf { it.length() }
}

/**
 * The directory, private to the app, that holds its bundles; what is not whole has a name with a dot in front.
 * Private, because files of shared storage cannot be mapped at full speed, and another app could change them.
 */
class BundleStore(val root: File) {
    /** The bundles that are whole, by name. */
    fun list(): List<StoredBundle> = root.listFiles().orEmpty().mapNotNull { find(it.name) }.sortedBy { it.id }

    /** null where there is no such bundle, or no whole one. */
    fun find(id: String): StoredBundle? {
        if (id.startsWith(".") || id.contains('/')) return null
        val directory = File(root, id)
        return try {
            StoredBundle(directory, BundleManifest.read(directory))
        } catch (_: IOException) {
            null
        }
    }

    /** The manifest goes first, so that what a kill leaves is no bundle. */
    fun delete(id: String) {
        val directory = File(root, id)
        File(directory, BundleManifest.FILE).delete()
        directory.deleteRecursively()
    }

    /** Bytes that the app can still write. */
    fun freeBytes(): Long {
        root.mkdirs()
        return StatFs(root.path).availableBytes
    }
}
