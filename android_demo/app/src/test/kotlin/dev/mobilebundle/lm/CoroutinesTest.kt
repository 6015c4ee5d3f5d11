package dev.mobilebundle.lm

import android.os.Handler
import android.os.Looper
import dev.mobilebundle.demo.AppTest
import dev.mobilebundle.demo.Inputs
import dev.mobilebundle.lm.ktx.Answer
import dev.mobilebundle.lm.ktx.answer
import dev.mobilebundle.lm.ktx.bundles
import dev.mobilebundle.lm.ktx.events
import dev.mobilebundle.lm.ktx.importFrom
import dev.mobilebundle.lm.ktx.open
import dev.mobilebundle.lm.ktx.resume
import dev.mobilebundle.lm.ktx.save
import java.io.File
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Deferred
import kotlinx.coroutines.ExperimentalCoroutinesApi
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.android.asCoroutineDispatcher
import kotlinx.coroutines.async
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** `lm-ktx` with the real runner: suspending functions on the main thread, and scopes that end what they began. */
class CoroutinesTest : AppTest() {
    private val scope = CoroutineScope(Handler(Looper.getMainLooper()).asCoroutineDispatcher() + SupervisorJob())

    @OptIn(ExperimentalCoroutinesApi::class)
    private fun <T> wait(work: suspend () -> T): T {
        val result: Deferred<T> = scope.async { work() }
        waitFor("a coroutine") { result.isCompleted }
        result.getCompletionExceptionOrNull()?.let { throw it }
        return result.getCompleted()
    }

    @Test
    fun importsOpensAndAnswers() {
        val uri = picked("model.mbundle.zip") { Inputs.textModelPacked.inputStream() }
        var told = 0
        val bundle = wait { app.store.importFrom(app, uri) { told++ } }
        assertTrue(told > 0)
        assertEquals(listOf(bundle.id), wait { app.store.bundles() }.map { it.id })
        RunnerLanguageModel(app).use { model ->
            assertEquals(300, wait { model.open(bundle.directory, LoadOptions(context = 300)) }.context)
            val pieces = StringBuilder()
            val answer: Answer = wait { model.answer(GenerationRequest.Text("The river", 12)) { pieces.append(it) } }
            assertEquals(12, answer.stats.tokens)
            assertEquals(pieces.toString(), answer.text)
        }
    }

    @Test
    fun aScopeThatIsCancelledStopsTheAnswerAndOnlyThat() {
        val bundle = imported(Inputs.textModelPacked)
        slowPhone()
        RunnerLanguageModel(app).use { model ->
            wait { model.open(bundle.directory) }
            val answering = CoroutineScope(scope.coroutineContext + Job())
            var pieces = 0
            answering.launch { model.events(GenerationRequest.Text("The river", 400)).collect { pieces++ } }
            waitFor("the answer's beginning") { pieces > 3 }
            answering.cancel()
            // The next one waits for the end of the one that was stopped, and no longer.
            val next = wait { model.answer(GenerationRequest.Text("The city", 4)) }
            assertEquals(4, next.stats.tokens)
            assertTrue("$pieces", pieces < 300)
        }
    }

    @Test
    fun aStateIsSavedAndTakenUp() {
        val bundle = imported(Inputs.textModelPacked)
        val file = File(app.filesDir, "one.state")
        val prompt = GenerationRequest.Text("The river", 12)
        val (saved, first) = RunnerLanguageModel(app).use { model ->
            wait { model.open(bundle.directory) }
            val first = wait { model.answer(prompt) }
            wait { model.save(file) } to first
        }
        RunnerLanguageModel(app).use { model ->
            val resumed = wait {
                model.open(bundle.directory)
                model.resume(file)
            }
            assertEquals(saved.copy(seconds = 0.0), resumed.copy(seconds = 0.0))
            assertEquals(first.text, wait { model.answer(prompt) }.text)
            file.writeText("no state")
            assertThrows(ModelError.StateRefused::class.java) { wait { model.resume(file) } }
        }
    }

    @Test
    fun failuresAreThrown() {
        RunnerLanguageModel(app).use { model ->
            assertThrows(ModelError.NotOpen::class.java) { wait { model.answer(GenerationRequest.Text("a")) } }
            assertThrows(ModelError.BundleUnreadable::class.java) { wait { model.open(File("/nonexistent")) } }
        }
        val broken = picked("no.zip") { "no ZIP".byteInputStream() }
        assertThrows(ImportError.NotABundle::class.java) { wait { app.store.importFrom(app, broken) } }
    }
}
