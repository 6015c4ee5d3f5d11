package dev.mobilebundle.demo.ui

import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.widget.AbsListView
import android.widget.EditText
import android.widget.ImageButton
import android.widget.ListView
import android.widget.TextView
import dev.mobilebundle.demo.Notice
import dev.mobilebundle.demo.R
import dev.mobilebundle.demo.Trouble
import dev.mobilebundle.demo.byteText
import dev.mobilebundle.demo.describe
import dev.mobilebundle.demo.numberText
import dev.mobilebundle.lm.ModelState
import dev.mobilebundle.lm.StoredBundle

/** A conversation. All of it is in the [dev.mobilebundle.demo.ChatSession]; the screen can go and come at any time. */
class ChatActivity : BundleActivity(), MessageAdapter.Actions {
    private val session get() = app.chat
    private val list by lazy { findViewById<ListView>(R.id.messages) }
    private val prompt by lazy { findViewById<EditText>(R.id.prompt) }
    private val send by lazy { findViewById<ImageButton>(R.id.send) }
    private val adapter by lazy { MessageAdapter(this, session, this) }
    private val speaker by lazy { Speaker(findViewById(R.id.spoken)) }

    /** Whether the end of the conversation is kept in sight. */
    private var following = true

    /** The message that is being edited and the conversation that it is of; -1: none. */
    private var editing = -1
    private var editedConversation = ""

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        show(R.layout.activity_chat, getString(R.string.chat))
        headerAction(R.id.header_action, R.drawable.ic_new_chat, R.string.new_chat) { newConversation() }
        headerAction(R.id.header_list, R.drawable.ic_list, R.string.conversations) {
            startActivity(Intent(this, ConversationsActivity::class.java))
        }
        editing = savedInstanceState?.getInt(EDITING, -1) ?: -1
        editedConversation = savedInstanceState?.getString(EDITED_CONVERSATION).orEmpty()
        list.adapter = adapter
        followTheEnd()
        findViewById<View>(R.id.status_row).setOnClickListener { showFigures() }
        findViewById<View>(R.id.cancel_edit).setOnClickListener { stopEditing() }
        findViewById<View>(R.id.notice).setOnClickListener { showNotice() }
        send.setOnClickListener { if (session.answering) session.stop() else sendPrompt() }
        prompt.onChange { renderSend() }
    }

    override fun onStop() {
        session.screenHidden(this)
        super.onStop()
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putInt(EDITING, editing)
        state.putString(EDITED_CONVERSATION, editedConversation)
    }

    override fun enter(bundle: StoredBundle) {
        title = bundle.manifest.name
        findViewById<TextView>(R.id.title).text = bundle.manifest.name
        prompt.setHint(if (bundle.manifest.hasChatTemplate) R.string.message_hint else R.string.text_hint)
        session.open(bundle)
        watch(session.observe { render() })
        watch(app.condition.observe { render() })
        session.screenShown(this)
        render()
    }

    /** Keeps the end in sight while the conversation grows; whoever scrolled up to read is left there. */
    private fun followTheEnd() {
        list.setOnScrollListener(object : AbsListView.OnScrollListener {
            private var byUser = false

            override fun onScrollStateChanged(view: AbsListView, state: Int) {
                byUser = state != AbsListView.OnScrollListener.SCROLL_STATE_IDLE
                onScroll(view, 0, 0, 0)
            }

            override fun onScroll(view: AbsListView, first: Int, visible: Int, total: Int) {
                if (atEnd()) follow(true) else if (byUser) follow(false)
            }
        })
        // Rows that are laid out a second time, a little higher, are not for the list to follow.
        list.addOnLayoutChangeListener { _, _, _, _, _, _, _, _, _ -> if (following && !atEnd()) list.post { scrollToEnd() } }
        findViewById<View>(R.id.to_end).apply {
            tooltipText = contentDescription
            setOnClickListener { scrollToEnd() }
        }
    }

    private fun follow(end: Boolean) {
        following = end
        list.transcriptMode = if (end) AbsListView.TRANSCRIPT_MODE_ALWAYS_SCROLL else AbsListView.TRANSCRIPT_MODE_DISABLED
        findViewById<View>(R.id.to_end).visibility = if (end) View.GONE else View.VISIBLE
    }

    private fun atEnd(): Boolean {
        if (list.lastVisiblePosition < adapter.count - 1) return false
        val last = list.getChildAt(list.childCount - 1) ?: return true
        return last.bottom <= list.height - list.paddingBottom
    }

    /** Asks for the last row farther up than it can be: the list then puts its end to its own, however tall it is. */
    private fun scrollToEnd() {
        follow(true)
        list.setSelectionFromTop(adapter.count - 1, FAR_UP)
    }

    private fun sendPrompt() {
        val text = prompt.text.toString()
        val edited = editing >= 0 && editedConversation == session.conversationId
        if (!if (edited) session.sendEdited(editing, text) else session.send(text)) return
        editing = -1
        prompt.text.clear()
        follow(true)
        render()
    }

    private fun newConversation() {
        stopEditing()
        session.newConversation()
    }

    override fun copy(text: String) = super.copy(text)

    override fun share(text: String) = share(text, R.string.share)

    /** Asks again with other words, in a conversation of its own. */
    override fun edit(index: Int) {
        editing = index
        editedConversation = session.conversationId
        prompt.setText(session.turns.getOrNull(index)?.text)
        prompt.setSelection(prompt.text.length)
        prompt.requestFocus()
        render()
    }

    private fun stopEditing() {
        if (editing >= 0) prompt.text.clear()
        editing = -1
        render()
    }

    override fun regenerate() = session.regenerate()

    override fun goOn() = session.goOn()

    private fun render() {
        val turns = session.turns
        adapter.notifyDataSetChanged()
        val chat = session.bundle?.manifest?.hasChatTemplate == true
        findViewById<TextView>(R.id.empty).apply {
            visibility = if (turns.isEmpty() && !session.isOpening) View.VISIBLE else View.GONE
            setText(if (chat) R.string.chat_empty else R.string.text_empty)
        }
        renderNotice()
        findViewById<TextView>(R.id.status).setTextIfChanged(status())
        val busy = session.answering || session.state is ModelState.Loading
        findViewById<View>(R.id.busy).visibility = if (busy) View.VISIBLE else View.GONE
        findViewById<View>(R.id.editing).visibility = if (editing >= 0) View.VISIBLE else View.GONE
        findViewById<View>(R.id.screen).keepScreenOn = session.answering
        speaker.hear(session.conversationId, turns)
        renderSend()
    }

    private fun renderSend() {
        val answering = session.answering
        send.setImageResource(if (answering) R.drawable.ic_stop else R.drawable.ic_send)
        send.contentDescription = getString(if (answering) R.string.stop_answer else R.string.send)
        send.tooltipText = send.contentDescription
        send.isEnabled = answering || (prompt.text.isNotBlank() && !session.isOpening && session.bundle != null)
    }

    private fun renderNotice() {
        val words = notice()
        findViewById<TextView>(R.id.notice).apply {
            visibility = if (words == null) View.GONE else View.VISIBLE
            if (text.toString() != words.orEmpty()) this@ChatActivity.findViewById<View>(R.id.notice_room).scrollTo(0, 0)
            setTextIfChanged(words.orEmpty())
        }
        // On a small screen the conversation needs the room: the notice says what the status would, or more.
        val room = words == null || resources.getBoolean(R.bool.status_beside_notice)
        findViewById<View>(R.id.status_row).visibility = if (room) View.VISIBLE else View.GONE
    }

    /** What the session has to tell, or why an answer may take longer than it did. */
    private fun notice(): String? = session.notice?.let { words(it) } ?: when (app.condition.trouble.takeIf { session.answering }) {
        Trouble.HOT -> getString(R.string.notice_hot)
        Trouble.LOW_BATTERY -> getString(R.string.notice_battery)
        null -> null
    }

    private fun words(notice: Notice): String = when (notice) {
        is Notice.LowMemory -> getString(if (notice.goesOn) R.string.notice_resumed else R.string.notice_low_memory)
        Notice.BeginningDropped -> getString(R.string.notice_dropped)
        Notice.NotSaved -> getString(R.string.notice_not_saved)
        Notice.TooLong -> getString(R.string.notice_too_long)
        is Notice.Problem -> describe(notice.error)
    }

    /** All of it, and what the runner said, for a report. */
    private fun showNotice() {
        val words = notice() ?: return
        val said = (session.notice as? Notice.Problem)?.error?.toString()
        showDetails(getString(R.string.details), listOfNotNull(words, said).joinToString("\n\n"))
    }

    private fun showFigures() {
        val figures = ArrayList<String>()
        session.loaded?.let {
            figures += getString(R.string.figures_model, it.context, numberText(it.loadSeconds, 2), it.threads, it.kernels)
        }
        session.started?.let { figures += getString(R.string.figures_kept, it.keptTokens, it.promptTokens) }
        session.currentRate?.let { figures += getString(R.string.figures_writing, numberText(it, 1)) }
        session.stats?.let {
            figures += getString(
                R.string.figures_answer,
                it.promptTokens,
                numberText(it.promptTokensPerSecond, 1),
                it.tokens,
                numberText(it.tokensPerSecond, 1),
                numberText(it.firstTokenSeconds, 2),
                byteText(it.memory.peakBytes),
                byteText(it.memory.anonymousBytes),
            )
        }
        showDetails(getString(R.string.figures), figures.joinToString("\n\n").ifEmpty { status() })
    }

    private fun status(): String = when (val state = session.state) {
        ModelState.Closed -> getString(R.string.status_closed)
        is ModelState.Loading -> state.installed.let {
            if (it == null) getString(R.string.status_loading) else getString(R.string.status_decoding, (it * PERCENT).toInt())
        }
        is ModelState.Ready -> getString(R.string.status_ready)
        is ModelState.Generating -> when {
            !session.answering -> getString(R.string.status_ready)
            session.turns.last().text.isEmpty() -> session.readShare.let {
                if (it == null) getString(R.string.status_reading) else getString(R.string.status_read, (it * PERCENT).toInt())
            }
            else -> getString(R.string.status_writing)
        }
        is ModelState.Released -> getString(R.string.status_released)
        is ModelState.Failed -> getString(R.string.status_failed)
    }

    companion object {
        private const val EDITING = "editing"
        private const val EDITED_CONVERSATION = "edited-conversation"
        private const val PERCENT = 100
        private const val FAR_UP = -1_000_000

        /** The screen of the conversation with a bundle of the store. */
        fun intent(context: Context, bundleId: String): Intent =
            BundleActivity.intent(context, ChatActivity::class.java, bundleId)
    }
}
