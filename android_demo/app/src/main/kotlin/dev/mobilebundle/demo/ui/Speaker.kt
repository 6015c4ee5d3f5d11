package dev.mobilebundle.demo.ui

import android.widget.TextView
import dev.mobilebundle.demo.Turn
import dev.mobilebundle.lm.Role

/**
 * Has a screen reader say an answer sentence by sentence while it is written. The answer's own text is no live region: it
 * would be read from its beginning at every token. [region] is one, too small to see.
 */
class Speaker(private val region: TextView) {
    private val markdown = Markdown(region.context)
    private var conversation = ""
    private var index = -1
    private var said = 0

    /** Looks at the conversation, and says what is new in it. */
    fun hear(conversationId: String, turns: List<Turn>) {
        val answer = turns.lastOrNull()?.takeIf { it.role == Role.ASSISTANT } ?: return
        if (conversationId != conversation || turns.lastIndex != index || answer.text.length < said) {
            conversation = conversationId
            index = turns.lastIndex
            // What was there when the screen opened is for the user to find, not to be told.
            said = if (answer.ending == null) 0 else answer.text.length
        }
        val end = if (answer.ending != null) answer.text.length else answer.text.lastIndexOfAny(STOPS) + 1
        if (end <= said) return
        val sentence = answer.text.substring(said, end).trim()
        said = end
        if (sentence.isNotEmpty()) region.setTextIfChanged(markdown.render(sentence).toString())
    }

    private companion object {
        val STOPS = charArrayOf('.', '!', '?', ':', '\n', '。', '؟', '।')
    }
}
