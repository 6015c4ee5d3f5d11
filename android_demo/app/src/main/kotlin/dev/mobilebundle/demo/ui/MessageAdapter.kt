package dev.mobilebundle.demo.ui

import android.content.Context
import android.view.Gravity
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.LinearLayout
import android.widget.TextView
import dev.mobilebundle.demo.ChatSession
import dev.mobilebundle.demo.Ending
import dev.mobilebundle.demo.R
import dev.mobilebundle.demo.Turn
import dev.mobilebundle.lm.Role

/** The messages of a conversation as rows; only those in sight are views. */
class MessageAdapter(private val context: Context, private val session: ChatSession, private val actions: Actions) : BaseAdapter() {
    /** What can be done with message number [index]. */
    interface Actions {
        fun copy(text: String)

        fun share(text: String)

        fun edit(index: Int)

        fun regenerate()

        fun goOn()
    }

    private val markdown = Markdown(context)

    private class Row(view: View) {
        val text: TextView = view.findViewById(R.id.text)
        val note: TextView = view.findViewById(R.id.note)
        val copy: View = view.findViewById(R.id.copy)
        val share: View = view.findViewById(R.id.share)
        val edit: View = view.findViewById(R.id.edit)
        val regenerate: View = view.findViewById(R.id.regenerate)
        val goOn: View = view.findViewById(R.id.go_on)
        val actions: View = view.findViewById(R.id.actions)
        var shown: Any? = null
    }

    override fun getCount() = session.turns.size

    override fun getItem(position: Int): Turn = session.turns[position]

    override fun getItemId(position: Int) = position.toLong()

    override fun areAllItemsEnabled() = false

    override fun isEnabled(position: Int) = false

    override fun getView(position: Int, recycled: View?, parent: ViewGroup): View {
        val view = recycled ?: LayoutInflater.from(context).inflate(R.layout.item_message, parent, false).also { it.tag = Row(it) }
        val row = view.tag as Row
        val turn = getItem(position)
        val last = position == session.turns.lastIndex
        val shown = listOf(position, turn, last, session.answering)
        if (row.shown != shown) {
            row.shown = shown
            bind(row, position, turn, last)
        }
        return view
    }

    private fun bind(row: Row, position: Int, turn: Turn, last: Boolean) {
        val mine = turn.role == Role.USER
        row.text.apply {
            // Who asks writes as it is meant; models write markdown.
            val words = words(turn).let { if (mine) it else markdown.render(it) }
            text = words
            contentDescription = context.getString(if (mine) R.string.you_said else R.string.model_said, words)
            setBackgroundResource(if (mine) R.drawable.bubble_user else R.drawable.bubble_model)
            setTextColor(context.getColor(if (mine) R.color.on_primary_container else R.color.text))
            // Set anew, not changed: only then are "start" and "end" looked at again in a row that was the other one's.
            layoutParams = (layoutParams as LinearLayout.LayoutParams).apply {
                val inset = (BUBBLE_INSET_DP * resources.displayMetrics.density).toInt()
                gravity = if (mine) Gravity.END else Gravity.START
                marginStart = if (mine) inset else 0
                marginEnd = if (mine) 0 else inset / 2
            }
        }
        row.note.apply {
            text = turn.ending?.let { note(it) }.orEmpty()
            visibility = shownIf(text.isNotEmpty())
        }
        val whole = mine || turn.ending != null
        row.actions.visibility = shownIf(whole)
        (row.actions.layoutParams as LinearLayout.LayoutParams).gravity = if (mine) Gravity.END else Gravity.START
        act(row.copy, whole && turn.text.isNotEmpty()) { actions.copy(turn.text) }
        act(row.share, !mine && whole && turn.text.isNotEmpty()) { actions.share(turn.text) }
        act(row.edit, mine && !session.answering) { actions.edit(position) }
        val ended = last && !session.answering
        act(row.regenerate, ended) { actions.regenerate() }
        act(row.goOn, ended && !mine && turn.ending != Ending.COMPLETE) { actions.goOn() }
    }

    /** Most models begin with a space or a line feed, which is no part of what they say. */
    private fun words(turn: Turn): String {
        val text = turn.text.trimStart()
        return when {
            text.length > ChatSession.MOST_CHARACTERS -> text.take(ChatSession.MOST_CHARACTERS) + "…"
            text.isNotEmpty() -> text
            turn.ending == null -> context.getString(R.string.thinking)
            else -> context.getString(R.string.no_answer)
        }
    }

    private fun act(view: View, shown: Boolean, onClick: () -> Unit) {
        view.visibility = shownIf(shown)
        view.tooltipText = view.contentDescription
        view.setOnClickListener { onClick() }
    }

    private fun shownIf(shown: Boolean) = if (shown) View.VISIBLE else View.GONE

    private fun note(ending: Ending): String? = when (ending) {
        Ending.COMPLETE -> null
        Ending.STOPPED -> context.getString(R.string.note_stopped)
        Ending.LENGTH -> context.getString(R.string.note_length)
        Ending.CONTEXT -> context.getString(R.string.note_context)
        Ending.INTERRUPTED -> context.getString(R.string.note_interrupted)
    }

    private companion object {
        const val BUBBLE_INSET_DP = 40
    }
}
