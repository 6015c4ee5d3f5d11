package dev.mobilebundle.lm

import android.os.Looper
import java.io.File
import java.io.FileOutputStream

/** The end of the name of what is not whole yet. */
internal const val PARTIAL = ".part"

/** Reading a disk on the main thread makes an app stutter, so what reads one refuses to. */
internal fun checkWorker() = check(Looper.myLooper() != Looper.getMainLooper()) { "this reads files: call it on a thread of its own" }

/** A model belongs to one thread: what is called on another is a mistake that would show only now and then. */
internal fun Looper.checkMine() = check(Looper.myLooper() === this) {
    "the model is called on the thread of its looper (${thread.name}), not on ${Thread.currentThread().name}"
}

internal fun ByteArray.hex() = joinToString("") { "%02x".format(it) }

internal fun File.writeSynced(bytes: ByteArray) = FileOutputStream(this).use {
    it.write(bytes)
    it.fd.sync()
}
