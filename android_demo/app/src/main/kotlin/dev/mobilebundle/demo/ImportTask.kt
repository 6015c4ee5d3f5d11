package dev.mobilebundle.demo

import android.content.Intent
import android.net.Uri
import dev.mobilebundle.lm.BundleImporter
import dev.mobilebundle.lm.ImportError
import dev.mobilebundle.lm.ImportProgress
import java.io.Closeable
import java.io.File
import java.io.IOException
import java.io.InputStream
import kotlin.concurrent.thread

/** The import that is running, or the last one if it failed. */
sealed class ImportState {
    object None : ImportState()
    data class Running(val progress: ImportProgress?) : ImportState()
    data class Failed(val error: ImportError) : ImportState()

    /** The app was killed while it ran. */
    object Interrupted : ImportState()
}

/**
 * Imports one file at a time on a thread of its own. Which file is written down, with the right to read it kept, so that
 * an import that died with the app can go on when it is started again.
 */
class ImportTask(private val app: DemoApplication) {
    private val pending = File(app.filesDir, "import.uri")
    private val observers = ArrayList<() -> Unit>()

    @Volatile
    private var stopped = false

    var state: ImportState = if (pending.exists()) ImportState.Interrupted else ImportState.None
        private set

    fun observe(observer: () -> Unit): Closeable {
        observers += observer
        return Closeable { observers -= observer }
    }

    fun start(uri: Uri) {
        if (state is ImportState.Running) return
        try {
            app.contentResolver.takePersistableUriPermission(uri, Intent.FLAG_GRANT_READ_URI_PERMISSION)
        } catch (_: SecurityException) {
            // this provider gives the right for now only: the import cannot go on after a kill
        }
        pending.writeText(uri.toString())
        run(uri)
    }

    /** Goes on with the import that failed or was interrupted. */
    fun retry() {
        if (state !is ImportState.Running && pending.exists()) run(Uri.parse(pending.readText()))
    }

    fun stop() {
        stopped = true
    }

    /** Gives the import up, with what was copied. */
    fun discard() {
        if (state is ImportState.Running) return
        forget()
        app.store.root.listFiles().orEmpty().filter { it.name.startsWith(".") }.forEach { it.deleteRecursively() }
        become(ImportState.None)
    }

    private fun run(uri: Uri) {
        stopped = false
        become(ImportState.Running(null))
        thread(name = "import") {
            val result = try {
                importer().import(open(uri))
                forget()
                ImportState.None
            } catch (e: ImportError) {
                ImportState.Failed(e)
            }
            app.main.execute { become(result) }
        }
    }

    /** Gives the right to read the file back: an app may hold few of them. */
    private fun forget() {
        if (!pending.exists()) return
        try {
            val uri = Uri.parse(pending.readText())
            app.contentResolver.releasePersistableUriPermission(uri, Intent.FLAG_GRANT_READ_URI_PERMISSION)
        } catch (_: SecurityException) {
            // it was given for that one time only
        }
        pending.delete()
    }

    private fun importer() = BundleImporter(
        app.store,
        app.memory(),
        app.program,
        progress = { progress -> app.main.execute { if (state is ImportState.Running) become(ImportState.Running(progress)) } },
        stopped = { stopped },
    )

    private fun open(uri: Uri): InputStream {
        try {
            return app.contentResolver.openInputStream(uri) ?: throw ImportError.Unreadable(uri.toString())
        } catch (e: IOException) {
            throw ImportError.Unreadable(e.message ?: uri.toString(), e)
        } catch (e: SecurityException) {
            throw ImportError.Unreadable(e.message ?: uri.toString(), e)
        }
    }

    private fun become(next: ImportState) {
        state = next
        for (observer in observers.toList()) observer()
    }
}
