package dev.mobilebundle.lm

import java.io.File
import java.util.concurrent.CountDownLatch
import java.util.concurrent.Executor
import java.util.concurrent.TimeUnit
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** The child process's end meets what the app still wants of it. */
class RunnerProcessTest {
    private class Ended : RunnerProcess.Listener {
        val done = CountDownLatch(1)

        override fun onEvent(event: RunnerEvent) = Unit

        override fun onExit(error: ModelError?) = done.countDown()
    }

    @Test
    fun fault7aProcessThatEndsWhileItIsWrittenTo() {
        repeat(50) {
            val listener = Ended()
            val process = RunnerProcess(File("/bin/true"), emptyList(), Executor { it.run() }, listener)
            process.start()
            while (listener.done.count > 0) {
                repeat(20) { process.send { "cancel" } }
                Thread.sleep(0, 100_000)
            }
            repeat(50) { process.send { "cancel" } }
        }
    }

    @Test
    fun aProgramThatIsNotThereEndsOnce() {
        val listener = Ended()
        val process = RunnerProcess(File("/nonexistent"), emptyList(), Executor { it.run() }, listener)
        process.start()
        process.send { "cancel" }
        process.kill()
        assertTrue(listener.done.await(10, TimeUnit.SECONDS))
        assertEquals(0, listener.done.count)
    }
}
