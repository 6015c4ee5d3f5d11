package dev.mobilebundle.demo

import dev.mobilebundle.lm.GenerationEvent
import dev.mobilebundle.lm.GenerationRequest
import dev.mobilebundle.lm.Message
import dev.mobilebundle.lm.ModelError
import dev.mobilebundle.lm.Role
import dev.mobilebundle.lm.RunnerLanguageModel
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** What the library asks the runner, as the runner understands it. */
class RequestTest : AppTest() {
    private fun answers(zip: File, vararg requests: GenerationRequest): List<Pair<String, GenerationEvent>> {
        val bundle = imported(zip).directory
        return RunnerLanguageModel(app.program, app.main, app::memory).use { model ->
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
    fun thinkingIsRefusedWhereTheTemplateCannot() {
        val (plain, on) = answers(Inputs.chatModel, chat(null), chat(true))
        assertTrue("${plain.second}", plain.second is GenerationEvent.Finished)
        val error = (on.second as GenerationEvent.Failed).error
        assertTrue(error.detail, error is ModelError.BadRequest && "thinking" in error.detail)
    }
}
