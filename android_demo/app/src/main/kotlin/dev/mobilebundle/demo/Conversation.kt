package dev.mobilebundle.demo

import dev.mobilebundle.lm.Message
import dev.mobilebundle.lm.Role
import java.io.File
import java.io.IOException
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** How an answer came to its end; null while it is being written. */
enum class Ending { COMPLETE, STOPPED, LENGTH, CONTEXT, INTERRUPTED }

/** A message on the screen. [ending]: of an answer. */
data class Turn(val role: Role, val text: String, val ending: Ending? = null)

/** A conversation, and the file that it is kept in, so that it outlives the process. */
class Conversation(private val file: File) {
    val turns = ArrayList<Turn>()

    init {
        load()
    }

    /** The last turn if it is an answer. */
    val answer: Turn? get() = turns.lastOrNull()?.takeIf { it.role == Role.ASSISTANT }

    /** The last message of the user; null before the first. */
    val question: String? get() = turns.lastOrNull { it.role == Role.USER }?.text

    fun replaceAnswer(change: (Turn) -> Turn) {
        answer?.let { turns[turns.lastIndex] = change(it) }
    }

    /**
     * What the model is told: questions with their answers, and the last question with what there is of its answer. A
     * question that never got one is left out, as templates want the two in turn.
     */
    fun messages(system: String): List<Message> = buildList {
        if (system.isNotBlank()) add(Message(Role.SYSTEM, system))
        turns.forEachIndexed { i, turn ->
            val answered = turns.getOrNull(i + 1)?.let { it.role == Role.ASSISTANT && it.text.isNotEmpty() } ?: false
            val last = turns.drop(i + 1).none { it.role == Role.USER }
            if (turn.role == Role.USER && (answered || last)) add(Message(Role.USER, turn.text))
            if (turn.role == Role.ASSISTANT && turn.text.isNotEmpty()) add(Message(Role.ASSISTANT, turn.text))
        }
    }

    /** Writes it whole or not at all; a full disk loses no more than what is new. */
    fun save() {
        val json = JSONArray()
        for (turn in turns) {
            json.put(JSONObject().put("role", turn.role.name).put("text", turn.text).put("ending", turn.ending?.name))
        }
        try {
            file.parentFile?.mkdirs()
            val partial = File(file.path + ".part")
            partial.writeText(json.toString())
            partial.renameTo(file)
        } catch (_: IOException) {
            // the conversation on the screen is still there
        }
    }

    private fun load() {
        try {
            val json = JSONArray(file.readText())
            for (i in 0 until json.length()) {
                val turn = json.getJSONObject(i)
                val ending = turn.optString("ending").takeIf { it.isNotEmpty() }?.let { Ending.valueOf(it) }
                turns += Turn(Role.valueOf(turn.getString("role")), turn.getString("text"), ending)
            }
        } catch (_: IOException) {
            // there is none yet
        } catch (_: JSONException) {
            turns.clear()
        } catch (_: IllegalArgumentException) {
            turns.clear()
        }
        // The process ended while this answer was being written.
        replaceAnswer { if (it.ending == null) it.copy(ending = Ending.INTERRUPTED) else it }
    }
}
