package dev.mobilebundle.demo

import dev.mobilebundle.lm.Message
import dev.mobilebundle.lm.Role

/** How an answer came to its end; null while it is being written. */
enum class Ending { COMPLETE, STOPPED, LENGTH, CONTEXT, INTERRUPTED }

/** A message on the screen. [ending]: of an answer. */
data class Turn(val role: Role, val text: String, val ending: Ending? = null)

/** A conversation with one bundle. [id]: of its file. */
class Conversation(val bundleId: String, val id: String = newId(), turns: List<Turn> = emptyList()) {
    val turns = ArrayList(turns)

    /** The last turn if it is an answer. */
    val answer: Turn? get() = turns.lastOrNull()?.takeIf { it.role == Role.ASSISTANT }

    /** The last message of the user; null before the first. */
    val question: String? get() = turns.lastOrNull { it.role == Role.USER }?.text

    fun replaceAnswer(change: (Turn) -> Turn) {
        answer?.let { turns[turns.lastIndex] = change(it) }
    }

    /** As it is now, to be written by another thread. */
    fun snapshot() = Conversation(bundleId, id, turns)

    /**
     * What the model is told: questions with their answers, and the last question with what there is of its answer. A
     * question that never got one is left out, as templates want the two in turn.
     */
    fun messages(system: String): List<Message> = buildList {
        if (system.isNotBlank()) add(Message(Role.SYSTEM, system))
        val lastQuestion = turns.indexOfLast { it.role == Role.USER }
        turns.forEachIndexed { i, turn ->
            val answered = turns.getOrNull(i + 1)?.let { it.role == Role.ASSISTANT && it.text.isNotEmpty() } ?: false
            if (turn.role == Role.USER && (answered || i == lastQuestion)) add(Message(Role.USER, turn.text))
            if (turn.role == Role.ASSISTANT && turn.text.isNotEmpty()) add(Message(Role.ASSISTANT, turn.text))
        }
    }

    companion object {
        private var last = 0L

        /** By the time, so that names sort by age; never the same twice. */
        @Synchronized
        private fun newId(): String {
            last = maxOf(last + 1, System.currentTimeMillis())
            return "$last"
        }
    }
}

/** The first words of a conversation, which name it. */
fun titleOf(turns: List<Turn>): String {
    val words = turns.firstOrNull { it.role == Role.USER }?.text.orEmpty().take(TITLE_LOOK).trim().split(Regex("\\s+"))
    val title = StringBuilder()
    for (word in words) {
        if (title.isNotEmpty() && title.length + word.length >= TITLE_CHARACTERS) return "$title…"
        if (title.isNotEmpty()) title.append(' ')
        title.append(word.take(TITLE_CHARACTERS))
    }
    return title.toString()
}

private const val TITLE_LOOK = 500
private const val TITLE_CHARACTERS = 48
