package dev.mobilebundle.demo

import dev.mobilebundle.lm.ModelState
import dev.mobilebundle.lm.StoredBundle
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test

/** A conversation that was left, or whose process died, is taken up where the model was: it is not read again. */
class ResumedConversationTest : AppTest() {
    private lateinit var bundle: StoredBundle
    private val folder get() = File(app.filesDir, "chats/${bundle.id}")

    @Before
    fun prepare() {
        app.settings.temperature = 0
        app.settings.maxNewTokens = 8
        bundle = imported(Inputs.chatModel)
    }

    private fun states() = folder.list().orEmpty().filter { "state" in it }.sorted()

    /** How many tokens of the prompt need not be read. */
    private fun ask(text: String): Int {
        assertTrue(app.chat.send(text))
        waitFor("the answer") { !app.chat.answering }
        return app.chat.started!!.keptTokens
    }

    /** So many tokens are known when the next question is asked: of the question before, and its answer. */
    private val known get() = app.chat.stats!!.promptTokens

    private fun waitForState(id: String = app.chat.conversationId) {
        waitFor("the state") { File(folder, "$id.state").isFile }
        settle()
    }

    private fun open(id: String) {
        app.chat.openConversation(id)
        waitFor("the conversation") { !app.chat.isOpening && app.chat.conversationId == id }
    }

    private val question = "What is the history of the city and of the river that it was built on? "

    @Test
    fun oneThatWasLeftIsNotReadAgain() {
        chat(bundle).use {
            assertEquals("a new one has nothing to take up", 0, ask(question.repeat(3)))
            val known = known
            waitForState()
            val first = app.chat.conversationId
            app.chat.newConversation()
            assertTrue(ask("Who was he?") < known)
            waitForState()
            open(first)
            val kept = ask("And she?")
            assertTrue("$kept of $known", kept >= known)
        }
    }

    @Test
    fun itIsTheAnswerThatAProcessWithoutEndWouldHaveGiven() {
        val answers = listOf(true, false).map { ended ->
            chat(bundle).use {
                app.chat.newConversation()
                ask(question)
                waitForState()
                if (ended) {
                    children().single().destroyForcibly()
                    waitFor("the end of the process") { app.chat.state is ModelState.Failed }
                }
                val kept = ask("And she?")
                assertTrue("$kept", kept > 20)
                app.chat.turns.last().text
            }
        }
        assertEquals(answers[0], answers[1])
    }

    @Test
    fun afterTheAppWasEndedToo() {
        var known = 0
        chat(bundle).use {
            ask(question)
            known = this.known
            waitForState()
        }
        app.chat.close()
        chat(bundle).use {
            assertEquals(2, app.chat.turns.size)
            val kept = ask("And she?")
            assertTrue("$kept of $known", kept >= known)
        }
    }

    @Test
    fun memoryThatWasGivenBackCostsNoReading() {
        chat(bundle).use {
            ask(question)
            val known = known
            waitForState()
            app.chat.onLowMemory()
            waitFor("the end of the process") { children().isEmpty() }
            val kept = ask("And she?")
            assertTrue("$kept of $known", kept >= known)
        }
    }

    @Test
    fun anAnswerThatWasStoppedIsKeptAsWell() {
        slowPhone()
        app.settings.maxNewTokens = 400
        chat(bundle).use {
            app.chat.send(question)
            waitFor("some of it") { app.chat.turns.last().text.length > 20 }
            app.chat.stop()
            waitForState()
        }
    }

    @Test
    fun aStateHasNoOtherConversationsWords() {
        chat(bundle).use {
            ask(question.repeat(3))
            waitForState()
            val long = app.conversations.stateFile(bundle.id, app.chat.conversationId).length()
            repeat(5) {
                app.chat.newConversation()
                app.chat.send("Who?")
                app.chat.stop() // most often before the model has read a word of it
                waitFor("the model has noticed") { app.chat.state is ModelState.Ready }
                repeat(20) { settle(); Thread.sleep(5) }
                val state = app.conversations.stateFile(bundle.id, app.chat.conversationId)
                assertTrue("${state.length()} of $long", state.length() < long / 2)
            }
        }
    }

    @Test
    fun aDamagedStateIsReadAgainAndReplaced() {
        chat(bundle).use {
            ask(question)
            waitForState()
            app.chat.close()
        }
        val state = folder.listFiles()!!.single { it.name.endsWith(".state") }
        val whole = state.readBytes()
        state.writeBytes(whole.copyOf(whole.size - 1))
        app.settings.maxNewTokens = 200
        slowPhone()
        chat(bundle).use {
            assertTrue(app.chat.send("And she?"))
            waitFor("it is read") { app.chat.started != null }
            settle()
            assertEquals(0, app.chat.started!!.keptTokens)
            assertFalse("the file is of no use", state.exists())
            app.chat.stop()
            waitForState()
            assertEquals(null, app.chat.notice)
        }
    }

    @Test
    fun itGoesWithTheConversation() {
        chat(bundle).use {
            ask(question)
            waitForState()
            val id = app.chat.conversationId
            app.chat.delete(id)
            settle()
            assertEquals(emptyList<String>(), states())
            app.chat.undelete(id)
            settle()
            open(id)
            ask("And she?")
            waitForState()
        }
        app.bundles.delete(bundle.id)
        settle()
        assertFalse(folder.exists())
    }

    @Test
    fun oneThatIsDeletedWhileItIsWrittenLeavesNone() {
        chat(bundle).use {
            repeat(10) {
                ask("Question $it")
                // The state of the answer is about to be written, is being written, or was.
                Thread.sleep(it * 2L)
                idle()
                app.chat.delete(app.chat.conversationId)
            }
            waitFor("all of them") { settle(); states().isEmpty() }
            // A request after the last state: when it is answered, that one was written.
            ask("The last one")
            waitForState()
            assertEquals(listOf("${app.chat.conversationId}.state"), states())
        }
    }

    @Test
    fun aFullDiskGetsNone() {
        disk(freeBytes = 64_000_000)
        chat(bundle).use {
            ask(question)
            settle()
            ask("And she?")
            settle()
            assertEquals(emptyList<String>(), states())
            assertEquals("the conversation itself is small", 1, folder.list()!!.size)
        }
    }

    @Test
    fun onlyTheLastFewAreKeptAndNoneWithoutItsConversation() {
        val store = app.conversations
        off {
            for (number in 1..6) {
                store.save(Conversation(bundle.id, "$number", listOf(Turn(dev.mobilebundle.lm.Role.USER, "$number"))))
                store.stateFile(bundle.id, "$number").apply { writeText("a state") }.setLastModified(number * 1_000_000L)
            }
            store.stateFile(bundle.id, "gone").writeText("a state")
            File(folder, ".3.state.partial-4711-0").writeText("half a state")
            store.purge()
        }
        assertEquals(listOf("3.state", "4.state", "5.state", "6.state"), states())
        assertEquals("no conversation was touched", 6, off { store.list(bundle.id).size })
    }
}
