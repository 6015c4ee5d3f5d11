package dev.mobilebundle.lm

import java.io.File
import java.io.IOException
import java.util.Locale
import java.util.TimeZone
import java.util.concurrent.CompletableFuture
import java.util.concurrent.ExecutionException
import java.util.concurrent.Executor
import java.util.concurrent.Executors
import java.util.concurrent.RejectedExecutionException
import kotlin.concurrent.thread
import org.json.JSONException

/** The phone's time zone as POSIX writes it: the runner is static and cannot look it up, but some chat templates write the date. */
internal fun localTime(zone: TimeZone = TimeZone.getDefault(), now: Long = System.currentTimeMillis()): String {
    val minutes = zone.getOffset(now) / 60_000
    val sign = if (minutes > 0) '-' else '+' // POSIX counts to the west
    return String.format(Locale.ROOT, "<local>%c%02d:%02d", sign, Math.abs(minutes) / 60, Math.abs(minutes) % 60)
}

/**
 * mobile-run as a child process: requests go in as lines, events come out as lines.
 *
 * The listener is called on [deliver], in order, and [Listener.onExit] last, once, also when the program could not be
 * started. The child ends when its standard input does, so it does not outlive the app.
 */
internal class RunnerProcess(
    private val program: File,
    private val arguments: List<String>,
    private val deliver: Executor,
    private val listener: Listener,
) {
    interface Listener {
        fun onEvent(event: RunnerEvent)

        /** [error]: why the process failed; null when it ended as it should. */
        fun onExit(error: ModelError?)
    }

    private val process = CompletableFuture<Process>()
    private val writer = Executors.newSingleThreadExecutor { thread(start = false, isDaemon = true, block = it::run) }

    fun start() {
        thread(name = "mobile-run", isDaemon = true) {
            val error = run()
            writer.shutdown()
            deliver.execute { listener.onExit(error) }
        }
    }

    /** Writes a line, made and written in the background. A process that is gone takes none: [Listener.onExit] tells. */
    fun send(line: () -> String) {
        try {
            writer.execute { write(line()) }
        } catch (_: RejectedExecutionException) {
            // the process ended just now
        }
    }

    private fun write(line: String) {
        try {
            process.get().outputStream.apply {
                write((line + "\n").toByteArray())
                flush()
            }
        } catch (_: IOException) {
            // the process ended
        } catch (_: ExecutionException) {
            // the process never began
        }
    }

    /** Ends the process at once. */
    fun kill() {
        process.thenAccept { it.destroyForcibly() }
    }

    private fun run(): ModelError? {
        if (!program.isFile) {
            val error = "$program is not there; an app must be packaged with packaging.jniLibs.useLegacyPackaging = true"
            process.completeExceptionally(IOException(error))
            return ModelError.RunnerMissing(error)
        }
        val child = try {
            ProcessBuilder(listOf(program.path) + arguments).apply { environment()["TZ"] = localTime() }.start()
        } catch (e: IOException) {
            process.completeExceptionally(e)
            return ModelError.RunnerMissing(e.message ?: program.path)
        }
        process.complete(child)
        val complaints = StringBuilder()
        val drain = thread(name = "mobile-run-errors", isDaemon = true) {
            readLines(child.errorStream.bufferedReader()) { if (complaints.length < MOST_COMPLAINTS) complaints.appendLine(it) }
        }
        // A reader decodes UTF-8 across the boundaries of what the pipe hands over.
        readLines(child.inputStream.bufferedReader()) { line ->
            val event = try {
                RunnerEvent.parse(line)
            } catch (e: JSONException) {
                RunnerEvent.Error(ModelError.BundleUnreadable("the runner wrote a line that is no event: $line"))
            }
            deliver.execute { listener.onEvent(event) }
        }
        val exit = child.waitFor()
        drain.join()
        return when (exit) {
            0 -> null
            BAD_USAGE -> ModelError.BadRequest(complaints.toString().trim())
            else -> ModelError.RunnerDied(exit, complaints.toString().trim())
        }
    }

    private fun readLines(reader: java.io.BufferedReader, take: (String) -> Unit) {
        try {
            reader.forEachLine(take)
        } catch (_: IOException) {
            // the stream was closed under the reader: the process was killed
        }
    }

    private companion object {
        const val BAD_USAGE = 2
        const val MOST_COMPLAINTS = 4096
    }
}
