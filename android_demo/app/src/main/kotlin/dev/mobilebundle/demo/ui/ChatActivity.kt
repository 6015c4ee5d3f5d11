package dev.mobilebundle.demo.ui

import android.content.ClipData
import android.content.ClipboardManager
import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.view.Gravity
import android.view.View
import android.view.ViewGroup
import android.widget.EditText
import android.widget.ImageButton
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.TextView
import android.widget.Toast
import dev.mobilebundle.demo.ChatSession
import dev.mobilebundle.demo.Ending
import dev.mobilebundle.demo.Notice
import dev.mobilebundle.demo.R
import dev.mobilebundle.demo.Turn
import dev.mobilebundle.demo.byteText
import dev.mobilebundle.demo.describe
import dev.mobilebundle.demo.numberText
import dev.mobilebundle.lm.ModelState
import dev.mobilebundle.lm.Role

/** A conversation. All of it is in the [ChatSession]; the screen can go and come at any time. */
class ChatActivity : ScreenActivity() {
    private val session get() = app.chat
    private val messages by lazy { findViewById<LinearLayout>(R.id.messages) }
    private val scroll by lazy { findViewById<ScrollView>(R.id.scroll) }
    private val prompt by lazy { findViewById<EditText>(R.id.prompt) }
    private val send by lazy { findViewById<ImageButton>(R.id.send) }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        show(R.layout.activity_chat, getString(R.string.chat))
        headerAction(R.drawable.ic_new_chat, R.string.new_chat) { session.clear() }
        send.setOnClickListener { if (session.answering) session.stop() else sendPrompt() }
        followTheEnd()
    }

    override fun onStart() {
        super.onStart()
        val bundle = app.store.find(intent.getStringExtra(BUNDLE).orEmpty())
        if (bundle == null) {
            Toast.makeText(this, R.string.no_bundle, Toast.LENGTH_LONG).show()
            return finish()
        }
        title = bundle.manifest.name
        findViewById<TextView>(R.id.title).text = bundle.manifest.name
        prompt.setHint(if (bundle.manifest.hasChatTemplate) R.string.message_hint else R.string.text_hint)
        session.open(bundle)
        watch(session.observe { render() })
        session.screenShown()
        render()
    }

    override fun onStop() {
        session.screenHidden()
        super.onStop()
    }

    /** Keeps the end in sight while the conversation grows; whoever scrolled up to read is left there. */
    private fun followTheEnd() {
        var atEnd = true
        val follow = View.OnLayoutChangeListener { _, _, _, _, _, _, _, _, _ ->
            if (atEnd) scroll.scrollTo(0, scroll.getChildAt(0).height)
        }
        scroll.setOnScrollChangeListener { _, _, _, _, _ -> atEnd = !scroll.canScrollVertically(1) }
        scroll.addOnLayoutChangeListener(follow)
        scroll.getChildAt(0).addOnLayoutChangeListener(follow)
    }

    private fun sendPrompt() {
        val text = prompt.text.toString()
        if (text.isBlank()) return
        prompt.text.clear()
        session.send(text)
    }

    private fun render() {
        renderMessages()
        renderNotice()
        findViewById<TextView>(R.id.status).text = status()
        val answering = session.answering
        send.setImageResource(if (answering) R.drawable.ic_stop else R.drawable.ic_send)
        send.contentDescription = getString(if (answering) R.string.stop_answer else R.string.send)
    }

    private fun renderMessages() {
        val turns = session.turns
        if (turns.isEmpty()) {
            messages.removeAllViews()
            val chat = session.bundle?.manifest?.hasChatTemplate == true
            messages.addView(hint(if (chat) R.string.chat_empty else R.string.text_empty))
            return
        }
        if (messages.getChildAt(0)?.id != R.id.message) messages.removeAllViews()
        while (messages.childCount > turns.size) messages.removeViewAt(messages.childCount - 1)
        turns.forEachIndexed { i, turn ->
            val last = i == turns.lastIndex
            val view = messages.getChildAt(i) ?: layoutInflater.inflate(R.layout.item_message, messages, false).also {
                messages.addView(it)
            }
            val shown = turn to last
            if (view.tag != shown) {
                view.tag = shown
                bind(view, turn, last)
            }
        }
    }

    private fun hint(text: Int) = TextView(this, null, 0, R.style.Text_Muted).apply {
        setText(text)
        gravity = Gravity.CENTER
        textAlignment = View.TEXT_ALIGNMENT_GRAVITY
        setPadding(0, 0, 0, resources.displayMetrics.density.toInt() * HINT_GAP_DP)
        layoutParams = LinearLayout.LayoutParams(ViewGroup.LayoutParams.MATCH_PARENT, ViewGroup.LayoutParams.MATCH_PARENT)
    }

    private fun bind(view: View, turn: Turn, last: Boolean) {
        val mine = turn.role == Role.USER
        view.findViewById<TextView>(R.id.text).apply {
            // Most models begin with a space or a line feed, which is no part of what they say.
            val words = turn.text.trimStart().ifEmpty { getString(R.string.thinking) }
            setTextIfChanged(words)
            contentDescription = getString(if (mine) R.string.you_said else R.string.model_said, words)
            setBackgroundResource(if (mine) R.drawable.bubble_user else R.drawable.bubble_model)
            setTextColor(getColor(if (mine) R.color.on_primary_container else R.color.text))
            (layoutParams as LinearLayout.LayoutParams).apply {
                val inset = (BUBBLE_INSET_DP * resources.displayMetrics.density).toInt()
                gravity = if (mine) Gravity.END else Gravity.START
                marginStart = if (mine) inset else 0
                marginEnd = if (mine) 0 else inset / 2
            }
            requestLayout()
        }
        view.findViewById<TextView>(R.id.note).apply {
            text = turn.ending?.let { note(it) }.orEmpty()
            visibility = if (text.isEmpty()) View.GONE else View.VISIBLE
        }
        val actions = last && turn.ending != null
        view.findViewById<View>(R.id.actions).visibility = if (actions) View.VISIBLE else View.GONE
        view.findViewById<View>(R.id.copy).setOnClickListener { copy(turn.text) }
        view.findViewById<View>(R.id.regenerate).setOnClickListener { session.regenerate() }
        view.findViewById<View>(R.id.go_on).apply {
            visibility = if (turn.ending == Ending.COMPLETE || turn.ending == Ending.CONTEXT) View.GONE else View.VISIBLE
            setOnClickListener { session.goOn() }
        }
    }

    private fun note(ending: Ending): String? = when (ending) {
        Ending.COMPLETE -> null
        Ending.STOPPED -> getString(R.string.note_stopped)
        Ending.LENGTH -> getString(R.string.note_length)
        Ending.CONTEXT -> getString(R.string.note_context)
        Ending.INTERRUPTED -> getString(R.string.note_interrupted)
    }

    private fun copy(text: String) {
        (getSystemService(Context.CLIPBOARD_SERVICE) as ClipboardManager)
            .setPrimaryClip(ClipData.newPlainText(getString(R.string.chat), text))
        Toast.makeText(this, R.string.copied, Toast.LENGTH_SHORT).show()
    }

    private fun renderNotice() {
        val notice = session.notice
        findViewById<View>(R.id.notice).visibility = if (notice == null) View.GONE else View.VISIBLE
        val text = when (notice) {
            null -> ""
            is Notice.LowMemory -> getString(if (notice.goesOn) R.string.notice_resumed else R.string.notice_low_memory)
            Notice.BeginningDropped -> getString(R.string.notice_dropped)
            is Notice.Problem -> describe(notice.error)
        }
        findViewById<TextView>(R.id.notice).setTextIfChanged(text)
    }

    private fun status(): String = when (val state = session.state) {
        ModelState.Closed -> getString(R.string.status_closed)
        is ModelState.Loading -> state.installed.let {
            if (it == null) getString(R.string.status_loading) else getString(R.string.status_decoding, (it * PERCENT).toInt())
        }
        is ModelState.Ready -> session.stats.let { stats ->
            if (stats == null) {
                getString(R.string.status_ready, state.model.context, numberText(state.model.loadSeconds, 2))
            } else {
                getString(
                    R.string.status_done,
                    numberText(stats.tokensPerSecond, 1),
                    byteText(stats.memory.peakBytes),
                    byteText(stats.memory.anonymousBytes),
                )
            }
        }
        is ModelState.Generating -> session.currentRate.let {
            if (it == null) getString(R.string.status_reading) else getString(R.string.status_writing, numberText(it, 1))
        }
        is ModelState.Released -> getString(R.string.status_released)
        is ModelState.Failed -> getString(R.string.status_failed)
    }

    companion object {
        private const val BUNDLE = "bundle"
        private const val BUBBLE_INSET_DP = 40
        private const val HINT_GAP_DP = 24
        private const val PERCENT = 100

        /** The screen of the conversation with a bundle of the store. */
        fun intent(context: Context, bundleId: String): Intent =
            Intent(context, ChatActivity::class.java).putExtra(BUNDLE, bundleId)
    }
}
