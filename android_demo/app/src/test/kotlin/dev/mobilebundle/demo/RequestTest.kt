package dev.mobilebundle.demo

import dev.mobilebundle.lm.AnswerForm
import dev.mobilebundle.lm.BundleManifest
import dev.mobilebundle.lm.FinishReason
import dev.mobilebundle.lm.GenerationEvent
import dev.mobilebundle.lm.GenerationRequest
import dev.mobilebundle.lm.MemoryFit
import dev.mobilebundle.lm.Message
import dev.mobilebundle.lm.ModelError
import dev.mobilebundle.lm.Role
import dev.mobilebundle.lm.ReleaseReason
import dev.mobilebundle.lm.RunnerLanguageModel
import dev.mobilebundle.lm.Sampling
import java.io.File
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** What the library asks the runner, as the runner understands it. */
class RequestTest : AppTest() {
    private fun answers(zip: File, vararg requests: GenerationRequest): List<Pair<String, GenerationEvent>> {
        val bundle = imported(zip).directory
        return RunnerLanguageModel(app).use { model ->
            model.load(bundle)
            requests.map { request ->
                val text = StringBuilder()
                var last: GenerationEvent? = null
                model.generate(request) { event ->
                    if (event is GenerationEvent.Text) text.append(event.text) else last = event
                }
                waitFor("the answer") { last is GenerationEvent.Finished || last is GenerationEvent.Failed }
                text.toString() to last!!
            }
        }
    }

    private fun chat(thinking: Boolean?) =
        GenerationRequest.Chat(listOf(Message(Role.USER, "Who was he?")), maxNewTokens = 24, thinking = thinking)

    @Test
    fun thinkingIsSwitchedWhereTheTemplateCan() {
        val (plain, off, on) = answers(Inputs.thinkingModel, chat(null), chat(false), chat(true))
        for ((_, end) in listOf(plain, off, on)) assertTrue("$end", end is GenerationEvent.Finished)
        assertEquals("left out: as the template has it, which is off", plain.first, off.first)
        val tokens = listOf(off, on).map { (it.second as GenerationEvent.Finished).stats.promptTokens }
        assertNotEquals("the prompt of the one that thinks is another", tokens[0], tokens[1])
    }

    @Test
    fun howFarALongPromptIsReadAndTokensAreCounted() {
        val bundle = imported(Inputs.textModelPacked).directory
        RunnerLanguageModel(app).use { model ->
            val events = ArrayList<GenerationEvent>()
            model.load(bundle)
            model.generate(GenerationRequest.Text("The city lies on a river. ".repeat(30), maxNewTokens = 12)) { events += it }
            waitFor("the answer") { events.lastOrNull() is GenerationEvent.Finished }
            val read = events.filterIsInstance<GenerationEvent.Reading>()
            val started = events.filterIsInstance<GenerationEvent.Started>().single()
            assertTrue("$events", read.size >= 2 && events.indexOf(started) == read.size)
            assertTrue(read.zipWithNext().all { (a, b) -> a.doneTokens < b.doneTokens })
            assertEquals(setOf(started.promptTokens), read.map { it.totalTokens }.toSet())
            val written = events.filterIsInstance<GenerationEvent.Text>()
            assertEquals((events.last() as GenerationEvent.Finished).stats.tokens, written.last().tokens)
        }
    }

    @Test
    fun onlyTheRequestThatIsCancelledEnds() {
        val bundle = imported(Inputs.textModelPacked).directory
        slowPhone()
        RunnerLanguageModel(app).use { model ->
            val ends = HashMap<String, GenerationEvent>()
            fun ask(name: String, tokens: Int) = model.generate(GenerationRequest.Text("The river", maxNewTokens = tokens)) {
                if (it is GenerationEvent.Finished || it is GenerationEvent.Failed) ends[name] = it
            }
            model.load(bundle)
            val first = ask("first", 400)
            first.cancel()
            val second = ask("second", 4)
            first.cancel() // once more: not the one that waits behind it
            waitFor("both ends") { ends.size == 2 }
            assertEquals(FinishReason.CANCELLED, (ends["first"] as GenerationEvent.Finished).stats.reason)
            assertEquals(4, (ends["second"] as GenerationEvent.Finished).stats.tokens)
            assertTrue(first.isFinished && second.isFinished)
            second.cancel() // finished: nothing happens to what is asked next
            ask("third", 4)
            waitFor("the third") { ends.size == 3 }
            assertEquals(4, (ends["third"] as GenerationEvent.Finished).stats.tokens)
        }
    }

    @Test
    fun anotherThreadIsRefused() {
        RunnerLanguageModel(app).use { model ->
            val calls = listOf<() -> Any>(
                { model.load(File("nowhere")) },
                { model.generate(GenerationRequest.Text("a")) {} },
                { model.observe {} },
                { model.release(ReleaseReason.NOT_NEEDED) },
                { model.close() },
            )
            for (call in calls) {
                val error = assertThrows(IllegalStateException::class.java) { off { call() } }
                assertTrue(error.message, "thread of its looper" in error.message!!)
            }
        }
    }

    @Test
    fun errorsAreThrowables() {
        RunnerLanguageModel(app).use { model ->
            var error: ModelError? = null
            model.generate(GenerationRequest.Text("a")) { error = (it as GenerationEvent.Failed).error }
            assertThrows(ModelError.NotOpen::class.java) { throw error!! }
        }
    }

    @Test
    fun whatIsUnlikelyIsLeftOut() {
        // With min_p 1 only the likeliest token is left: the answer is the greedy one, whatever the temperature.
        fun text(sampling: Sampling) = GenerationRequest.Text("The history of the city", 16, sampling)
        val (greedy, sampled) = answers(
            Inputs.textModelPacked,
            text(Sampling()),
            text(Sampling(temperature = 3f, seed = 5, minP = 1f, repetitionWindow = 16)),
        )
        assertEquals(greedy.first, sampled.first)
    }

    @Test
    fun anAnswerEndsBeforeAStopString() {
        fun text(vararg stop: String) = GenerationRequest.Text("The history of the city", 32, stop = stop.toList())
        val whole = answers(Inputs.textModelPacked, text()).single().first
        // Two letters and a space between them: the end of one token and the beginning of another.
        val inner = whole.substring(whole.indexOf(' ', 20) - 1).take(3)
        val (stopped, unseen, refused) = answers(Inputs.textModelPacked, text("no such words", inner), text("no such words"), text(""))
        assertEquals(whole.substringBefore(inner), stopped.first)
        assertEquals(FinishReason.STOP, (stopped.second as GenerationEvent.Finished).stats.reason)
        assertEquals("what is held back comes in the end", whole, unseen.first)
        assertEquals(FinishReason.LENGTH, (unseen.second as GenerationEvent.Finished).stats.reason)
        assertTrue((refused.second as GenerationEvent.Failed).error is ModelError.BadRequest)
    }

    @Test
    fun anAnswerHasTheFormThatIsAskedFor() {
        val schema = """
            {"type": "object", "required": ["name", "born"], "additionalProperties": false, "properties": {
              "name": {"type": "string", "maxLength": 12}, "born": {"type": "integer", "minimum": 1, "maximum": 2100}}}
        """
        fun text(form: AnswerForm) = GenerationRequest.Text("The king was called", 80, form = form)
        val (json, date, refused) = answers(
            Inputs.textModelPacked,
            text(AnswerForm.JsonSchema(schema)),
            text(AnswerForm.Regex("[12][0-9]{3}-(0[1-9]|1[0-2])")),
            text(AnswerForm.JsonSchema("""{"type": "object", "patternProperties": {"a": {}}}""")),
        )
        for ((_, end) in listOf(json, date)) assertEquals(FinishReason.END, (end as GenerationEvent.Finished).stats.reason)
        val found = JSONObject(json.first)
        assertEquals(listOf("name", "born"), found.keys().asSequence().toList())
        assertTrue(json.first, found.getString("name").length <= 12 && found.getInt("born") in 1..2100)
        assertTrue(date.first, Regex("[12][0-9]{3}-(0[1-9]|1[0-2])").matches(date.first))
        val error = (refused.second as GenerationEvent.Failed).error
        assertTrue(error.detail, error is ModelError.BadRequest && "patternProperties" in error.detail)
        assertThrows(IllegalArgumentException::class.java) { AnswerForm.JsonSchema("[]") }
    }

    /** The phone has 1 GB for apps: enough for the model, not for the model and a form. */
    @Test
    fun aFormThatDoesNotFitBesideTheModelIsRefused() {
        val bundle = imported(Inputs.textModelPacked)
        val file = File(bundle.directory, "manifest.json")
        val formBytes = JSONObject(file.readText()).getJSONObject("predicted").getLong("form_bytes")
        val peak = 1_000_000_001 - formBytes
        file.writeText(file.readText().replace(Regex("\"peak_bytes\": \\d+"), "\"peak_bytes\": $peak"))
        val manifest = off { BundleManifest.read(bundle.directory) }
        assertEquals(formBytes, manifest.formBytes)
        assertEquals(MemoryFit.Verdict.TIGHT, MemoryFit.of(manifest, app.memory()).verdict)
        assertEquals(MemoryFit.Verdict.TOO_LARGE, MemoryFit.of(manifest, app.memory(), forms = true).verdict)
        RunnerLanguageModel(app).use { model ->
            model.load(bundle.directory)
            fun end(form: AnswerForm?): GenerationEvent {
                var last: GenerationEvent? = null
                model.generate(GenerationRequest.Text("The river", 4, form = form)) { last = it }
                waitFor("the end") { last is GenerationEvent.Finished || last is GenerationEvent.Failed }
                return last!!
            }
            val refused = (end(AnswerForm.Regex("yes|no")) as GenerationEvent.Failed).error
            assertEquals(1_000_000_001, (refused as ModelError.DoesNotFit).fit.neededBytes)
            assertTrue("without a form it answers", end(null) is GenerationEvent.Finished)
        }
    }

    @Test
    fun aBundleOfBeforeFormsWerePredictedCountsThemAsALargeVocabularyDoes() {
        val bundle = imported(Inputs.textModelPacked)
        val file = File(bundle.directory, "manifest.json")
        file.writeText(file.readText().replace(Regex(",\\s*\"form_bytes\": \\d+"), ""))
        assertEquals(32_000_000, off { BundleManifest.read(bundle.directory) }.formBytes)
    }

    @Test
    fun aConversationIsAnsweredInAForm() {
        val question = listOf(Message(Role.USER, "Is water wet?"))
        val (answer, _) = answers(Inputs.chatModel, GenerationRequest.Chat(question, form = AnswerForm.Regex("yes|no"))).single()
        assertTrue(answer, answer in listOf("yes", "no"))
    }

    @Test
    fun thinkingIsRefusedWhereTheTemplateCannot() {
        val (plain, on) = answers(Inputs.chatModel, chat(null), chat(true))
        assertTrue("${plain.second}", plain.second is GenerationEvent.Finished)
        val error = (on.second as GenerationEvent.Failed).error
        assertTrue(error.detail, error is ModelError.BadRequest && "thinking" in error.detail)
    }
}
