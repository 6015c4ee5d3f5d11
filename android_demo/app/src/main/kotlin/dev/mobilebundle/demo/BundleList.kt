package dev.mobilebundle.demo

import dev.mobilebundle.lm.StoredBundle
import java.io.Closeable

/** The bundles on the phone, as they were last read; the main thread reads no file for them. */
class BundleList(private val app: DemoApplication) {
    private val worker = worker("bundles")
    private val observers = Observers()
    private val waiting = ArrayList<(List<StoredBundle>) -> Unit>()

    /** By name; null until they were read for the first time. */
    var all: List<StoredBundle>? = null
        private set

    /** Of the storage, for more of them. */
    var freeBytes = 0L
        private set

    init {
        refresh()
    }

    fun observe(observer: () -> Unit): Closeable = observers.add(observer)

    /** Reads them anew, in the background. */
    fun refresh() = worker.execute {
        val found = app.store.list()
        val free = app.store.freeBytes()
        app.main.execute {
            all = found
            freeBytes = free
            observers.tell()
            val asked = waiting.toList()
            waiting.clear()
            for (one in asked) one(found)
        }
    }

    /** Hands the bundle over, or null where there is none: at once if they were read already, else when they are. */
    fun find(id: String, then: (StoredBundle?) -> Unit) {
        val known = all
        if (known == null) waiting += { found -> then(found.find { it.id == id }) } else then(known.find { it.id == id })
    }

    /** Deletes a bundle with its conversations. */
    fun delete(id: String) {
        app.chat.forget(id)
        all = all?.filter { it.id != id }
        observers.tell()
        worker.execute { app.store.delete(id) }
        refresh()
    }
}
