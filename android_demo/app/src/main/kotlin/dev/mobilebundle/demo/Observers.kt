package dev.mobilebundle.demo

import java.io.Closeable

/** Who is told of changes, on the main thread. */
class Observers {
    private val all = ArrayList<() -> Unit>()

    /** Calls [observer] at every change, until the result is closed. */
    fun add(observer: () -> Unit): Closeable {
        all += observer
        return Closeable { all -= observer }
    }

    fun tell() {
        for (observer in all.toList()) observer()
    }
}
