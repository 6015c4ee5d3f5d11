package dev.mobilebundle.demo

import dev.mobilebundle.lm.FinishReason
import dev.mobilebundle.lm.Generation
import dev.mobilebundle.lm.GenerationEvent
import dev.mobilebundle.lm.GenerationRequest
import dev.mobilebundle.lm.GenerationStats
import dev.mobilebundle.lm.LanguageModel
import dev.mobilebundle.lm.LoadedModel
import dev.mobilebundle.lm.ModelError
import dev.mobilebundle.lm.ModelState
import dev.mobilebundle.lm.ReleaseReason
import dev.mobilebundle.lm.Role
import dev.mobilebundle.lm.RunnerLanguageModel
import dev.mobilebundle.lm.SavedStateEvent
import dev.mobilebundle.lm.StoredBundle
import java.io.Closeable

/** What the user should be told beside the conversation. */
sealed class Notice {
    /** The model was stopped for want of memory; [goesOn]: it went on by itself when the user came back. */
    data class LowMemory(val goesOn: Boolean) : Notice()
    object BeginningDropped : Notice()

    /** The disk would not take the conversation. */
    object NotSaved : Notice()
    object TooLong : Notice()
    data class Problem(val error: ModelError) : Notice()
}

/**
 * The conversations with one bundle, of which one is open. It lives as long as the app's process and knows nothing of
 * screens: they come and go, look at it and are told when it changes. Everything happens on the main thread, but for reading
 * and writing files.
 */
class ChatSession(private val app: DemoApplication) {
    /** An answer that is being written into a conversation. Once it was stopped, what still comes of it means nothing. */
    private class Writing(val conversation: Conversation) {
        var generation: Generation? = null
        var read: GenerationEvent.Reading? = null
        var tokens = 0
        var startedAt = 0L
    }

    private val model: LanguageModel = RunnerLanguageModel(app)
    private val observers = Observers()
    private val screens = HashSet<Any>()
    private var conversation = Conversation("")
    private var writing: Writing? = null
    private var savedAt = 0L
    private var toldAt = 0L
    private var unsaved = false
    private var reloadAfterAnswer = false

    /** The conversation that the model's process has read, so that only what is new is read; null: none. */
    private var held: String? = null

    /** The request to open a conversation that counts: the last one. */
    private var opening: Any? = null

    var bundle: StoredBundle? = null
        private set
    var notice: Notice? = null
        private set

    /** Of the last answer that was finished in this process, and of the model as it was opened. */
    var stats: GenerationStats? = null
        private set
    var started: GenerationEvent.Started? = null
        private set
    var loaded: LoadedModel? = null
        private set

    val conversationId: String get() = conversation.id
    val turns: List<Turn> get() = conversation.turns
    val state: ModelState get() = model.state

    /** Whether an answer is being given, or waits for the model to be loaded. */
    val answering: Boolean get() = writing != null

    /** Whether a conversation is being read from the disk: nothing can be sent meanwhile. */
    val isOpening: Boolean get() = opening != null

    /** Tokens per second of the answer that is being written, by what has come so far; null at its beginning. */
    val currentRate: Double?
        get() = writing?.let { if (it.tokens < FEW) null else (it.tokens - 1) / ((System.nanoTime() - it.startedAt) / 1e9) }

    /** The share of a long prompt that is read, 0..1; null where nothing is known of it. */
    val readShare: Float? get() = writing?.read?.let { it.doneTokens.toFloat() / it.totalTokens }

    init {
        app.disk.execute { app.conversations.purge() }
        model.observe { state ->
            if (state is ModelState.Failed) notice = Notice.Problem(state.error)
            if (state is ModelState.Ready) loaded = state.model
            if (state is ModelState.Closed || state is ModelState.Released || state is ModelState.Failed) held = null
            changed()
        }
    }

    /** Calls [observer] whenever something changes, until the result is closed. */
    fun observe(observer: () -> Unit): Closeable = observers.add(observer)

    /** Takes up the last conversation with a bundle and loads the model; does nothing if that is the one already. */
    fun open(wanted: StoredBundle) {
        if (bundle?.directory == wanted.directory && state !is ModelState.Closed) return
        close()
        bundle = wanted
        conversation = Conversation(wanted.id)
        read { app.conversations.latest(wanted.id) }
        load()
        changed()
    }

    /** Takes up another conversation with the same bundle. One that is being answered is stopped, and kept. */
    fun openConversation(id: String) {
        val current = bundle ?: return
        if (id == conversation.id) return
        stop()
        read { app.conversations.load(current.id, id) }
        changed()
    }

    /** Begins a conversation; the one before stays in the list. */
    fun newConversation() {
        stop()
        opening = null
        become(Conversation(conversation.bundleId))
    }

    /** Puts a conversation aside; [undelete] brings it back. */
    fun delete(id: String) {
        val current = bundle ?: return
        if (id == conversation.id) newConversation()
        app.disk.execute { app.conversations.delete(current.id, id) }
    }

    fun undelete(id: String) {
        val current = bundle ?: return
        app.disk.execute { app.conversations.undelete(current.id, id) }
    }

    /** Hands over the conversations in which [query] occurs, newest first; all of them for an empty one. */
    fun list(query: String, then: (List<ConversationSummary>) -> Unit) {
        val current = bundle ?: return then(emptyList())
        app.disk.execute {
            val found = app.conversations.list(current.id, query)
            app.main.execute { then(found) }
        }
    }

    /** Hands over a conversation, null where it is gone. */
    fun find(id: String, then: (List<Turn>?) -> Unit) {
        val current = bundle ?: return then(null)
        app.disk.execute {
            val found = app.conversations.load(current.id, id)?.turns
            app.main.execute { then(found) }
        }
    }

    /** Loads the model anew, by settings that have changed; after the answer that is being written. */
    fun settingsChanged() {
        if (answering) {
            reloadAfterAnswer = true
        } else if (bundle != null && state !is ModelState.Closed) {
            load()
        }
    }

    /** Sends a message; false where it cannot be taken, and then it is for the user to keep. */
    fun send(text: String): Boolean {
        if (answering || isOpening || bundle == null || text.isBlank()) return false
        if (text.length > MOST_CHARACTERS) {
            notice = Notice.TooLong
            changed()
            return false
        }
        notice = null
        conversation.turns += Turn(Role.USER, text.trim())
        answer("")
        return true
    }

    /** Asks again with message [index] replaced by [text], in a conversation of its own: the one before stays as it is. */
    fun sendEdited(index: Int, text: String): Boolean {
        val before = turns.take(index)
        if (answering || isOpening || bundle == null || text.isBlank() || text.length > MOST_CHARACTERS) return send(text)
        become(Conversation(conversation.bundleId, turns = before))
        return send(text)
    }

    /** Another answer to the last question. */
    fun regenerate() {
        if (answering || isOpening || bundle == null || conversation.question == null) return
        notice = null
        if (conversation.answer != null) conversation.turns.removeAt(conversation.turns.lastIndex)
        answer("")
    }

    /** Goes on with the last answer from where it ended. */
    fun goOn() {
        if (answering || isOpening || bundle == null || conversation.question == null) return
        notice = notice.takeIf { it == Notice.LowMemory(goesOn = true) }
        val begun = conversation.answer?.text.orEmpty()
        if (conversation.answer != null) conversation.turns.removeAt(conversation.turns.lastIndex)
        answer(begun)
    }

    /** Ends the answer as it is. What is sent next waits only until the model has noticed. */
    fun stop() {
        if (!answering) return
        writing?.generation?.cancel()
        end(Ending.STOPPED)
        changed()
    }

    /** Ends the model's process; the conversations stay on the disk. */
    fun close() {
        reloadAfterAnswer = false
        if (answering) end(Ending.INTERRUPTED)
        opening = null
        model.close()
        bundle = null
        conversation = Conversation("")
        notice = null
        forgetFigures()
        loaded = null
        changed()
    }

    /** Forgets a bundle's conversations, with the bundle. */
    fun forget(bundleId: String) {
        if (bundle?.id == bundleId) close()
        app.disk.execute { app.conversations.forget(bundleId) }
    }

    /** A screen shows the conversation. What was stopped for want of memory meanwhile goes on. */
    fun screenShown(screen: Any) {
        screens += screen
        if (notice == Notice.LowMemory(goesOn = true)) goOn()
    }

    fun screenHidden(screen: Any) {
        if (screens.remove(screen) && unsaved) save()
    }

    /** Gives the model's memory back. Nobody looking, it goes on by itself later; otherwise it is for the user to say. */
    fun onLowMemory() {
        if (state !is ModelState.Ready && state !is ModelState.Generating && state !is ModelState.Loading) return
        val wasAnswering = answering
        model.release(ReleaseReason.LOW_MEMORY)
        notice = Notice.LowMemory(goesOn = wasAnswering && screens.isEmpty())
        changed()
    }

    private fun load() {
        val current = bundle ?: return
        loaded = null
        held = null
        model.load(current.directory, app.settings.loadOptions(current.manifest.longestContext))
    }

    private fun read(from: () -> Conversation?) {
        val mine = Any()
        opening = mine
        app.disk.execute {
            val found = from()
            app.main.execute {
                if (opening === mine) {
                    opening = null
                    found?.let { become(it) } ?: changed()
                }
            }
        }
    }

    private fun become(next: Conversation) {
        conversation = next
        notice = null
        forgetFigures()
        changed()
    }

    private fun forgetFigures() {
        stats = null
        started = null
    }

    private fun answer(begun: String) {
        conversation.turns += Turn(Role.ASSISTANT, begun)
        save()
        val mine = Writing(conversation)
        writing = mine
        if (held != conversation.id) resume(conversation)
        mine.generation = model.generate(request()) { take(it, mine) }
        held = conversation.id
        changed()
    }

    /** Has the model take up the state in which a process before had read the conversation. Without one all of it is read. */
    private fun resume(wanted: Conversation) {
        model.resume(app.conversations.stateFile(wanted.bundleId, wanted.id)) { event ->
            val refused = event is SavedStateEvent.Failed && event.error !is ModelError.WasReleased
            if (refused) app.disk.execute { app.conversations.deleteState(wanted.bundleId, wanted.id) }
        }
    }

    /** Has the model's state written beside the conversation that it has just answered in. */
    private fun keep(answered: Conversation, stats: GenerationStats) {
        fun isStillHeld() = !answering && held == answered.id
        // One that was stopped before anything was read leaves the model with what it had read before: another conversation.
        if (stats.promptTokens == 0 || stats.stateBytes == 0L || !isStillHeld()) return
        app.disk.execute {
            if (!app.conversations.hasRoomFor(stats.stateBytes)) return@execute
            app.main.execute {
                if (isStillHeld()) {
                    model.save(app.conversations.stateFile(answered.bundleId, answered.id)) {
                        // The conversation may have been deleted meanwhile.
                        app.disk.execute { app.conversations.trimStates() }
                    }
                }
            }
        }
    }

    private fun request(): GenerationRequest {
        val settings = app.settings
        if (bundle?.manifest?.hasChatTemplate == true) {
            val messages = conversation.messages(settings.systemPrompt)
            return GenerationRequest.Chat(messages, settings.maxNewTokens, settings.sampling())
        }
        val prompt = conversation.question.orEmpty() + conversation.answer?.text.orEmpty()
        return GenerationRequest.Text(prompt, settings.maxNewTokens, settings.sampling())
    }

    private fun take(event: GenerationEvent, mine: Writing) {
        if (mine === writing) follow(event, mine)
        // Also of an answer that was stopped, or begun in a conversation that was left.
        if (event is GenerationEvent.Finished) keep(mine.conversation, event.stats)
    }

    private fun follow(event: GenerationEvent, mine: Writing) {
        when (event) {
            is GenerationEvent.Reading -> mine.read = event
            is GenerationEvent.Started -> {
                started = event
                if (event.droppedMessages > 0) notice = Notice.BeginningDropped
            }
            is GenerationEvent.Text -> {
                if (mine.tokens == 0) mine.startedAt = System.nanoTime()
                mine.tokens = event.tokens
                mine.conversation.replaceAnswer { it.copy(text = it.text + event.text) }
                unsaved = true
                return now()
            }
            is GenerationEvent.Finished -> {
                stats = event.stats
                end(ending(event.stats.reason))
            }
            is GenerationEvent.Failed -> {
                if (event.error !is ModelError.WasReleased) notice = Notice.Problem(event.error)
                end(Ending.INTERRUPTED)
            }
        }
        changed()
    }

    private fun end(ending: Ending) {
        writing = null
        conversation.replaceAnswer { it.copy(ending = ending) }
        save()
        if (reloadAfterAnswer) {
            reloadAfterAnswer = false
            // Not from within an event of the model that is ended by it.
            app.main.execute { if (!answering) settingsChanged() }
        }
    }

    private fun ending(reason: FinishReason) = when (reason) {
        FinishReason.END, FinishReason.STOP -> Ending.COMPLETE
        FinishReason.LENGTH -> Ending.LENGTH
        FinishReason.CONTEXT -> Ending.CONTEXT
        FinishReason.CANCELLED -> Ending.STOPPED
    }

    /** More of the answer: shown at most twenty times a second, saved at most once. */
    private fun now() {
        val time = System.nanoTime()
        if (time - savedAt >= SAVE_EVERY_NANOSECONDS) save()
        if (time - toldAt >= TELL_EVERY_NANOSECONDS) changed()
    }

    private fun save() {
        if (conversation.turns.isEmpty()) return
        savedAt = System.nanoTime()
        unsaved = false
        val written = conversation.snapshot()
        app.disk.execute {
            if (app.conversations.save(written)) return@execute
            app.main.execute {
                notice = Notice.NotSaved
                changed()
            }
        }
    }

    private fun changed() {
        toldAt = System.nanoTime()
        app.work(this, answering)
        observers.tell()
    }

    companion object {
        /** No model of this size reads more, and a screen that shows more is slow. */
        const val MOST_CHARACTERS = 20_000
        private const val SAVE_EVERY_NANOSECONDS = 1_000_000_000L
        private const val TELL_EVERY_NANOSECONDS = 50_000_000L
        private const val FEW = 4
    }
}
