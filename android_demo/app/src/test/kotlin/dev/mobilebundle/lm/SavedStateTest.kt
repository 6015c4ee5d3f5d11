package dev.mobilebundle.lm

import dev.mobilebundle.demo.AppTest
import dev.mobilebundle.demo.Inputs
import java.io.File
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test

/** The state of a conversation in a file: what one process of the runner has read, another need not read again. */
class SavedStateTest : AppTest() {
    private lateinit var bundle: File
    private lateinit var file: File

    @Before
    fun prepare() {
        bundle = imported(Inputs.textModelPacked).directory
        file = File(app.filesDir, "one.state")
    }

    private class Answered(val text: String, val started: GenerationEvent.Started, val stats: GenerationStats)

    private fun <T> open(directory: File = bundle, use: (RunnerLanguageModel) -> T): T =
        RunnerLanguageModel(app).use {
            it.load(directory)
            use(it)
        }

    private fun RunnerLanguageModel.ask(prompt: String, tokens: Int = 16): Answered {
        val text = StringBuilder()
        var started: GenerationEvent.Started? = null
        var end: GenerationEvent? = null
        generate(GenerationRequest.Text(prompt, tokens)) { event ->
            when (event) {
                is GenerationEvent.Text -> text.append(event.text)
                is GenerationEvent.Started -> started = event
                is GenerationEvent.Finished, is GenerationEvent.Failed -> end = event
                is GenerationEvent.Reading -> Unit
            }
        }
        waitFor("the answer") { end != null }
        return Answered(text.toString(), started!!, (end as GenerationEvent.Finished).stats)
    }

    private fun ended(ask: (SavedStateListener) -> Unit): SavedStateEvent {
        var end: SavedStateEvent? = null
        ask { end = it }
        waitFor("the state") { end != null }
        return end!!
    }

    private fun RunnerLanguageModel.saved(to: File = file) = (ended { save(to, it) } as SavedStateEvent.Done).state

    private fun refusal(event: SavedStateEvent): String {
        val error = (event as SavedStateEvent.Failed).error
        assertTrue("$error", error is ModelError.StateRefused)
        return error.detail
    }

    private val long = "The city lies on a river. ".repeat(20)

    @Test
    fun anotherProcessGoesOnAsTheFirstWouldHave() {
        val (first, next) = open { model ->
            val first = model.ask(long)
            val saved = model.saved()
            assertEquals("its size was known before", first.stats.stateBytes, saved.bytes)
            assertEquals(saved.bytes, file.length())
            assertEquals(first.stats.promptTokens + first.stats.tokens - 1, saved.tokens)
            first to model.ask(long + first.text + " It was built")
        }
        open { model ->
            val resumed = (ended { model.resume(file, it) } as SavedStateEvent.Done).state
            assertEquals(file.length(), resumed.bytes)
            val again = model.ask(long + first.text + " It was built")
            assertEquals(next.text, again.text)
            assertEquals(next.started.keptTokens, again.started.keptTokens)
            assertTrue("${again.started}", again.started.keptTokens >= first.stats.promptTokens)
        }
    }

    @Test
    fun aProcessThatWasReleasedTakesItUpBeforeTheNextRequest() {
        open { model ->
            val first = model.ask(long)
            model.saved()
            model.release(ReleaseReason.LOW_MEMORY)
            waitFor("the end of the process") { children().isEmpty() }
            var event: SavedStateEvent? = null
            model.resume(file) { event = it }
            val next = model.ask(long + first.text)
            assertTrue("$event", event is SavedStateEvent.Done)
            assertTrue("${next.started}", next.started.keptTokens >= first.stats.promptTokens)
        }
    }

    @Test
    fun aFileThatIsNotOfThisModelIsRefusedAndChangesNothing() {
        val plain = open { model ->
            model.ask(long)
            model.saved()
            model.ask("The river")
        }
        val whole = file.readBytes()
        val flipped = whole.copyOf().also { it[it.size / 2] = (it[it.size / 2] + 1).toByte() }
        for (bytes in listOf(ByteArray(0), whole.copyOf(whole.size - 1), flipped, "{}".toByteArray())) {
            file.writeBytes(bytes)
            open { model ->
                refusal(ended { model.resume(file, it) })
                assertEquals(plain.text, model.ask("The river").text)
            }
        }
        file.writeBytes(whole)
        val other = imported(Inputs.thinkingModel).directory
        // The same weights: only the file's checksum tells that these are others.
        val weights = File(other, "weights.ptd")
        assertFalse("decoded weights are laid out otherwise", weights.readBytes().contentEquals(File(bundle, "weights.ptd").readBytes()))
        open(other) { model -> refusal(ended { model.resume(file, it) }) }
        assertTrue(refusal(open { model -> ended { model.resume(File(app.filesDir, "none.state"), it) } }).contains("none.state"))
    }

    @Test
    fun whatCannotBeWrittenIsToldAndLeavesNothing() {
        open { model ->
            model.ask("The river")
            val nowhere = File(app.filesDir, "no such folder/one.state")
            refusal(ended { model.save(nowhere, it) })
            model.saved()
            val before = file.readBytes()
            refusal(ended { model.save(File(file, "below a file"), it) })
            assertArrayEquals(before, file.readBytes())
            model.release(ReleaseReason.NOT_NEEDED)
            val unopened = ended { model.save(file, it) } as SavedStateEvent.Failed
            assertTrue("a model without a process has read nothing", unopened.error is ModelError.NotOpen)
            assertArrayEquals(before, file.readBytes())
        }
        assertEquals(listOf("one.state"), app.filesDir.list()!!.filter { "state" in it })
    }

    @Test
    fun whatIsAskedMeanwhileHappensInOrder() {
        slowPhone()
        open { model ->
            val order = ArrayList<String>()
            fun ask(name: String) = model.generate(GenerationRequest.Text("The river", 30)) { if (it is GenerationEvent.Finished) order += name }
            val first = ask("first")
            model.save(file) { order += "saved" }
            var refused: ModelError? = null
            model.generate(GenerationRequest.Text("a")) { refused = (it as GenerationEvent.Failed).error }
            assertTrue("$refused", refused is ModelError.StillAnswering)
            first.cancel()
            ask("second")
            model.resume(file) { order += "resumed" }
            waitFor("all of it") { order.size == 4 }
            assertEquals(listOf("first", "saved", "second", "resumed"), order)
        }
    }

    @Test
    fun aProcessThatDiesTellsEveryoneWhoWaits() {
        slowPhone()
        open { model ->
            val ends = ArrayList<ModelError>()
            model.generate(GenerationRequest.Text("The river", 400)) { if (it is GenerationEvent.Failed) ends += it.error }
            model.save(file) { ends += (it as SavedStateEvent.Failed).error }
            waitFor("the process") { model.state is ModelState.Generating }
            children().single().destroyForcibly()
            waitFor("both") { ends.size == 2 }
            assertTrue("$ends", ends.all { it is ModelError.RunnerDied && it.signal == 9 })
        }
    }
}
