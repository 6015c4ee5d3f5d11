package dev.mobilebundle.demo

import android.content.Intent
import android.net.Uri
import android.os.SystemClock
import dev.mobilebundle.lm.BundleImporter
import dev.mobilebundle.lm.ImportError
import dev.mobilebundle.lm.ImportProgress
import dev.mobilebundle.lm.openBundle
import java.io.Closeable
import java.io.File
import java.io.IOException
import java.io.InputStream
import org.json.JSONException
import org.json.JSONObject

/** The import that is running, or the last one if it failed. */
sealed class ImportState {
    object None : ImportState()

    /** [minutesLeft]: as [TimeLeft] says it. */
    data class Running(val progress: ImportProgress?, val minutesLeft: Int? = null) : ImportState()

    /** [totalBytes]: -1 where the server does not say. */
    data class Downloading(val doneBytes: Long, val totalBytes: Long, val minutesLeft: Int? = null) : ImportState()
    data class Failed(val error: ImportError) : ImportState()

    /** It ended without a bundle before the app was started, and can go on. */
    object Interrupted : ImportState()
}

/**
 * Imports one file at a time on a thread of its own. Which file is written down, with the right to read it kept, so that
 * an import that died with the app goes on when it is started again: by itself once, and after that only when asked, lest a
 * file that kills the app kills it for ever. One that was stopped or refused never goes on by itself.
 */
class ImportTask(private val app: DemoApplication) {
    /** What is written down of an import. [running]: neither stopped nor refused. [resumed]: it went on by itself already. */
    private class Record(val uri: Uri, val running: Boolean, val resumed: Boolean) {
        fun toJson() = JSONObject().put("uri", uri.toString()).put("running", running).put("resumed", resumed)
    }

    private class Run {
        @Volatile
        var stopped = false
        private val timeLeft = TimeLeft()

        fun minutesLeft(name: String, doneBytes: Long, totalBytes: Long, keptBytes: Long = 0): Int? =
            timeLeft.minutes(SystemClock.elapsedRealtime() / MILLISECONDS, name, doneBytes, totalBytes, keptBytes)
    }

    private val file = File(app.filesDir, "import.json")
    private val downloads = File(app.filesDir, "downloads")
    private val worker = worker("import")
    private val observers = Observers()
    private var run: Run? = null

    var state: ImportState = ImportState.None
        private set

    init {
        worker.execute {
            val record = read()
            if (record == null) downloads.deleteRecursively()
            app.store.deleteLeftovers(keepImport = record != null)
            app.main.execute { if (record != null && state == ImportState.None) takeUp(record) }
        }
    }

    fun observe(observer: () -> Unit): Closeable = observers.add(observer)

    val isRunning: Boolean get() = state is ImportState.Running || state is ImportState.Downloading

    /** [uri]: of a file that another app hands over, or the address of a download ([Download.address]). */
    fun start(uri: Uri) = begin { Record(uri, running = true, resumed = false) }

    /** Goes on with the import that failed or was interrupted. */
    fun retry() = begin { read()?.let { Record(it.uri, running = true, resumed = false) } }

    fun stop() {
        run?.stopped = true
    }

    /** Gives the import up, with what was copied. */
    fun discard() {
        if (isRunning) return
        worker.execute {
            forget()
            downloads.deleteRecursively()
            app.store.deleteLeftovers()
        }
        become(ImportState.None)
    }

    private fun takeUp(record: Record) {
        become(ImportState.Interrupted)
        if (record.running && !record.resumed) begin { Record(record.uri, running = true, resumed = true) }
    }

    private fun begin(what: () -> Record?) {
        if (isRunning) return
        val mine = Run()
        run = mine
        become(ImportState.Running(null))
        worker.execute {
            val result = what()?.let { import(it, mine) } ?: ImportState.None
            app.main.execute {
                become(result)
                app.bundles.refresh()
            }
        }
    }

    private fun import(record: Record, mine: Run): ImportState = try {
        remember(record)
        importer(mine).import(if (record.uri.scheme in Download.SCHEMES) download(record, mine) else handedOver(record))
        forget()
        downloads.deleteRecursively()
        ImportState.None
    } catch (e: ImportError) {
        // What the file holds will not change by another try.
        if (e is ImportError.NotABundle || e is ImportError.Damaged || e is ImportError.DoesNotFit) downloads.deleteRecursively()
        try {
            file.writeText(Record(record.uri, running = false, resumed = false).toJson().toString())
        } catch (_: IOException) {
            forget() // a disk that is full to the last byte: better no import than one that goes on unasked
        }
        ImportState.Failed(e)
    }

    private fun remember(record: Record) {
        read()?.takeIf { it.uri != record.uri }?.let { release(it.uri) }
        try {
            app.contentResolver.takePersistableUriPermission(record.uri, Intent.FLAG_GRANT_READ_URI_PERMISSION)
        } catch (_: RuntimeException) {
            // this provider gives the right for now only: the import cannot go on after a kill
        }
        try {
            file.writeText(record.toJson().toString())
        } catch (e: IOException) {
            throw ImportError.DiskFull(0, app.store.freeBytes())
        }
    }

    private fun read(): Record? = try {
        JSONObject(file.readText()).let {
            Record(Uri.parse(it.getString("uri")), it.getBoolean("running"), it.getBoolean("resumed"))
        }
    } catch (_: IOException) {
        null // there is none
    } catch (_: JSONException) {
        null // the app was killed while it was written
    }

    private fun forget() {
        read()?.let { release(it.uri) }
        file.delete()
    }

    /** Gives the right to read the file back: an app may hold few of them. */
    private fun release(uri: Uri) {
        try {
            app.contentResolver.releasePersistableUriPermission(uri, Intent.FLAG_GRANT_READ_URI_PERMISSION)
        } catch (_: RuntimeException) {
            // it was given for that one time only
        }
    }

    private fun handedOver(record: Record): InputStream {
        downloads.deleteRecursively() // of another address, if there is one
        return app.contentResolver.openBundle(record.uri)
    }

    private fun download(record: Record, mine: Run): InputStream {
        val tell = { done: Long, total: Long ->
            show(mine, ImportState.Downloading(done, total, mine.minutesLeft("download", done, total)))
        }
        return Download(downloads, record.uri.toString()).fetch(tell) { mine.stopped }.inputStream()
    }

    private fun show(mine: Run, next: ImportState) = app.main.execute { if (run === mine && isRunning) become(next) }

    private fun importer(mine: Run) = BundleImporter(
        app.store,
        app.memory(),
        app.program,
        progress = {
            val stage = if (it.installing) "decode" else "copy"
            show(mine, ImportState.Running(it, mine.minutesLeft(stage, it.doneBytes, it.totalBytes, it.keptBytes)))
        },
        stopped = { mine.stopped },
    )

    private fun become(next: ImportState) {
        state = next
        app.work(this, isRunning)
        observers.tell()
    }

    private companion object {
        const val MILLISECONDS = 1000.0
    }
}
