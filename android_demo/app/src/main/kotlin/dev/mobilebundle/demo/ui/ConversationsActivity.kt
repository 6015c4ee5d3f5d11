package dev.mobilebundle.demo.ui

import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.EditText
import android.widget.ListView
import android.widget.TextView
import dev.mobilebundle.demo.ConversationSummary
import dev.mobilebundle.demo.R
import dev.mobilebundle.demo.transcript
import java.text.DateFormat
import java.util.Date

/** The conversations with the model that is open: to open, search, share and delete them. */
class ConversationsActivity : ScreenActivity() {
    private val session get() = app.chat
    private val search by lazy { findViewById<EditText>(R.id.search) }

    /** In the app's language, which may not be the phone's. */
    private val times by lazy {
        DateFormat.getDateTimeInstance(DateFormat.SHORT, DateFormat.SHORT, resources.configuration.locales[0])
    }
    private var shown: List<ConversationSummary> = emptyList()

    /** Deleted, and can be brought back as long as the screen is there. */
    private var deleted: String? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        show(R.layout.activity_conversations, getString(R.string.conversations))
        findViewById<View>(R.id.open_settings).visibility = View.GONE
        deleted = savedInstanceState?.getString(DELETED)
        headerAction(R.id.header_action, R.drawable.ic_new_chat, R.string.new_chat) {
            session.newConversation()
            finish()
        }
        findViewById<ListView>(R.id.conversations).apply {
            adapter = rows
            emptyView = this@ConversationsActivity.findViewById(R.id.no_conversations)
        }
        findViewById<View>(R.id.undo).setOnClickListener { undo() }
        search.onChange { refresh() }
    }

    override fun onStart() {
        super.onStart()
        if (session.bundle == null) return finish() // the app was ended meanwhile: back to where the model is opened
        refresh()
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putString(DELETED, deleted)
    }

    private fun refresh() {
        val query = search.text.toString()
        session.list(query) { found ->
            if (query != search.text.toString()) return@list // a later one is on its way
            shown = found
            rows.notifyDataSetChanged()
            findViewById<TextView>(R.id.no_conversations)
                .setText(if (query.isBlank()) R.string.no_conversations else R.string.nothing_found)
            findViewById<View>(R.id.undo_bar).visibility = if (deleted == null) View.GONE else View.VISIBLE
        }
    }

    private fun open(id: String) {
        session.openConversation(id)
        finish()
    }

    private fun delete(id: String) {
        deleted = id
        session.delete(id)
        refresh()
    }

    private fun undo() {
        deleted?.let { session.undelete(it) }
        deleted = null
        refresh()
    }

    private fun shareConversation(id: String) = session.find(id) { turns ->
        turns?.let { share(transcript(it, session.bundle?.manifest?.name.orEmpty()), R.string.share) }
    }

    private val rows = object : BaseAdapter() {
        override fun getCount() = shown.size

        override fun getItem(position: Int) = shown[position]

        override fun getItemId(position: Int) = position.toLong()

        override fun getView(position: Int, recycled: View?, parent: ViewGroup): View {
            val view = recycled ?: layoutInflater.inflate(R.layout.row_conversation, parent, false)
            val one = getItem(position)
            view.findViewById<TextView>(R.id.conversation_title).text = one.title
            view.findViewById<TextView>(R.id.conversation_found).apply {
                text = one.found
                visibility = if (one.found.isEmpty()) View.GONE else View.VISIBLE
            }
            view.findViewById<TextView>(R.id.conversation_facts).text = getString(
                R.string.conversation_facts,
                times.format(Date(one.changed)),
                one.messages,
            )
            view.findViewById<View>(R.id.conversation_open).setOnClickListener { open(one.id) }
            act(view, R.id.conversation_share, R.string.share, one) { shareConversation(one.id) }
            act(view, R.id.conversation_delete, R.string.delete, one) { delete(one.id) }
            return view
        }

        private fun act(row: View, id: Int, label: Int, one: ConversationSummary, onClick: () -> Unit) {
            row.findViewById<View>(id).apply {
                contentDescription = "${getString(label)}, ${one.title}"
                tooltipText = getString(label)
                setOnClickListener { onClick() }
            }
        }
    }

    private companion object {
        const val DELETED = "deleted"
    }
}
