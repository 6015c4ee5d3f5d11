package dev.mobilebundle.lm

import android.os.StatFs
import java.io.File
import java.io.IOException
import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.ReentrantLock

/** A bundle on the phone. [diskBytes]: what it takes on the disk. */
data class StoredBundle(val directory: File, val manifest: BundleManifest, val diskBytes: Long) {
    val id: String get() = directory.name
}

/**
 * The directory, private to the app, that holds its bundles; what is not whole has a name with a dot in front.
 * Private, because files of shared storage cannot be mapped at full speed, and another app could change them.
 *
 * A bundle's id is made from its content: two sizes of one model lie side by side, and the same file imported twice is one
 * bundle. Every function reads or writes files: not on the main thread.
 */
class BundleStore(val root: File) {
    /** Held by what puts bundles in or takes leftovers out: one at a time. */
    private val lock = ReentrantLock()

    /** The bundles that are whole, by name. */
    fun list(): List<StoredBundle> {
        checkWorker()
        return root.listFiles().orEmpty().mapNotNull { find(it.name) }.sortedBy { it.id }
    }

    /** null where there is no such bundle, or no whole one. */
    fun find(id: String): StoredBundle? {
        checkWorker()
        if (id.isEmpty() || id.startsWith(".") || id.contains('/')) return null
        val directory = File(root, id)
        return try {
            StoredBundle(directory, BundleManifest.read(directory), bytesOf(directory))
        } catch (_: IOException) {
            null
        }
    }

    /** It is gone from the list at once; what a kill leaves is a leftover. */
    fun delete(id: String) {
        checkWorker()
        if (id.isEmpty() || id.startsWith(".") || id.contains('/')) return
        val doomed = File(root, ".$id$DELETED")
        doomed.deleteRecursively()
        if (!File(root, id).renameTo(doomed)) File(root, id).deleteRecursively()
        doomed.deleteRecursively()
    }

    /** Removes what imports and deletions that were cut off have left. [keepImport]: but for an import that may go on. */
    fun deleteLeftovers(keepImport: Boolean = false) {
        checkWorker()
        if (!lock.tryLock()) return // an import is running: it knows what is its own
        try {
            leftovers().filterNot { keepImport && it.name.endsWith(PARTIAL) }.forEach { it.deleteRecursively() }
        } finally {
            lock.unlock()
        }
    }

    /** Bytes that the app can still write. */
    fun freeBytes(): Long {
        checkWorker()
        root.mkdirs()
        return StatFs(root.path).availableBytes
    }

    /** Runs [work] when no other import runs in this store. */
    internal fun <T> exclusively(stopped: () -> Boolean, work: () -> T): T {
        while (!lock.tryLock(POLL_MILLISECONDS, TimeUnit.MILLISECONDS)) if (stopped()) throw ImportError.Stopped()
        try {
            return work()
        } finally {
            lock.unlock()
        }
    }

    /** The directory that an import of [id] fills. Of other imports nothing is kept: there is one at a time. */
    internal fun partial(id: String): File {
        val directory = File(root, ".$id$PARTIAL")
        leftovers().filter { it != directory }.forEach { it.deleteRecursively() }
        return directory
    }

    /** Puts a whole bundle under its name; what was there goes only when the new one is in its place. */
    internal fun commit(directory: File, id: String): File {
        val target = File(root, id)
        val old = File(root, ".$id$DELETED")
        if (target.exists() && !target.renameTo(old)) throw IOException("cannot replace ${target.name}")
        if (!directory.renameTo(target)) {
            old.renameTo(target)
            throw IOException("cannot rename ${directory.name}")
        }
        old.deleteRecursively()
        return target
    }

    internal fun bytesOf(directory: File) = directory.walkTopDown().filter { it.isFile }.sumOf { it.length() }

    private fun leftovers() = root.listFiles().orEmpty().filter {
        it.name.startsWith(".") || !File(it, BundleManifest.FILE).isFile
    }

    private companion object {
        const val DELETED = ".deleted"
        const val POLL_MILLISECONDS = 100L
    }
}
