package dev.mobilebundle.lm

import java.io.File
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

private const val POLL_MILLISECONDS = 100L

/**
 * Runs the program to its end on this thread; null, or why it failed. [stopped] is asked ten times a second, and ends it.
 * Of errors that the program tells, the first counts, not the exit status that follows from it.
 */
internal fun runOnce(
    program: File,
    arguments: List<String>,
    stopped: () -> Boolean,
    onEvent: (RunnerEvent) -> Unit,
): ModelError? {
    val tasks = LinkedBlockingQueue<Runnable>()
    var ended = false
    var failure: ModelError? = null
    val process = RunnerProcess(program, arguments, tasks::put, object : RunnerProcess.Listener {
        override fun onEvent(event: RunnerEvent) {
            if (event is RunnerEvent.Error) failure = failure ?: event.error else onEvent(event)
        }

        override fun onExit(error: ModelError?) {
            failure = failure ?: error
            ended = true
        }
    })
    process.start()
    while (!ended) {
        if (stopped()) process.kill()
        tasks.poll(POLL_MILLISECONDS, TimeUnit.MILLISECONDS)?.run()
    }
    return failure
}
