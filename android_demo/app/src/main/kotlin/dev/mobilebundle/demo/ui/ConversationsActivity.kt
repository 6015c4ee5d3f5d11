package dev.mobilebundle.demo.ui

import android.app.Activity
import android.app.AlertDialog
import android.app.Dialog
import android.content.ActivityNotFoundException
import android.content.Intent
import android.net.Uri
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.EditText
import android.widget.ListView
import android.widget.TextView
import android.widget.Toast
import dev.mobilebundle.demo.ConversationSummary
import dev.mobilebundle.demo.R
import dev.mobilebundle.demo.transcript
import java.io.IOException
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

    /** The file of this one is being chosen. */
    private var exported: String? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        show(R.layout.activity_conversations, getString(R.string.conversations))
        findViewById<View>(R.id.open_settings).visibility = View.GONE
        deleted = savedInstanceState?.getString(DELETED)
        exported = savedInstanceState?.getString(EXPORTED)
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
        state.putString(EXPORTED, exported)
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

    /** Hands over the conversation as a text. */
    private fun read(id: String, then: (String) -> Unit) = session.find(id) { turns ->
        if (turns == null) tell(R.string.not_saved_as_file) else then(transcript(turns, session.bundle?.manifest?.name.orEmpty()))
    }

    override fun createDialog(id: Int, arguments: Bundle): Dialog = if (id == SHARE) {
        val conversation = arguments.getString(CONVERSATION).orEmpty()
        AlertDialog.Builder(this)
            .setItems(arrayOf(getString(R.string.share_as_text), getString(R.string.save_as_file))) { _, chosen ->
                if (chosen == 0) shareAsText(conversation) else chooseFile(conversation)
            }
            .setNegativeButton(R.string.cancel, null)
            .create()
    } else {
        super.createDialog(id, arguments)
    }

    /** What is handed to another app goes through the system, which takes a megabyte at most; a file can be of any length. */
    private fun shareAsText(id: String) = read(id) { text ->
        if (text.length <= MOST_SHARED_CHARACTERS) share(text, R.string.share) else chooseFile(id)
    }

    /** The system's own picker: it needs no permission, and gives the right to write that one file. */
    private fun chooseFile(id: String) {
        exported = id
        val title = shown.find { it.id == id }?.title.orEmpty().filter { it.isLetterOrDigit() || it == ' ' }.trim()
        val intent = Intent(Intent.ACTION_CREATE_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("text/plain")
            .putExtra(Intent.EXTRA_TITLE, title.ifEmpty { getString(R.string.conversations) } + ".txt")
        try {
            @Suppress("DEPRECATION") // its replacement is in a library that this app does without
            startActivityForResult(intent, FILE)
        } catch (_: ActivityNotFoundException) {
            tell(R.string.not_saved_as_file)
        }
    }

    @Deprecated("its replacement is in a library that this app does without")
    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        val target = data?.data?.takeIf { requestCode == FILE && resultCode == Activity.RESULT_OK } ?: return
        exported?.let { id -> read(id) { write(it, target) } }
    }

    private fun write(text: String, target: Uri) = app.disk.execute {
        val written = try {
            app.contentResolver.openOutputStream(target, "wt")?.use { it.write(text.toByteArray()) } != null
        } catch (_: IOException) {
            false
        } catch (_: RuntimeException) {
            false // a provider that throws what it likes
        }
        app.main.execute { tell(if (written) R.string.saved_as_file else R.string.not_saved_as_file) }
    }

    private fun tell(words: Int) = Toast.makeText(app, words, Toast.LENGTH_LONG).show()

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
            act(view, R.id.conversation_share, R.string.share, one) { ask(SHARE, Bundle().apply { putString(CONVERSATION, one.id) }) }
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
        const val EXPORTED = "exported"
        const val CONVERSATION = "conversation"
        const val SHARE = 1
        const val FILE = 2
        const val MOST_SHARED_CHARACTERS = 100_000
    }
}
