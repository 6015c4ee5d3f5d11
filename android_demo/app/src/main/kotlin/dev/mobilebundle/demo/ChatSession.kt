package dev.mobilebundle.demo

import dev.mobilebundle.lm.FinishReason
import dev.mobilebundle.lm.GenerationEvent
import dev.mobilebundle.lm.GenerationRequest
import dev.mobilebundle.lm.GenerationStats
import dev.mobilebundle.lm.LanguageModel
import dev.mobilebundle.lm.ModelError
import dev.mobilebundle.lm.ModelState
import dev.mobilebundle.lm.ReleaseReason
import dev.mobilebundle.lm.Role
import dev.mobilebundle.lm.RunnerLanguageModel
import dev.mobilebundle.lm.StoredBundle
import java.io.Closeable
import java.io.File

/** What the user should be told beside the conversation. */
sealed class Notice {
    /** The model was stopped for want of memory; [goesOn]: it went on by itself when the user came back. */
    data class LowMemory(val goesOn: Boolean) : Notice()
    object BeginningDropped : Notice()
    data class Problem(val error: ModelError) : Notice()
}

/**
 * The conversation with one bundle. It lives as long as the app's process and knows nothing of screens: they come and go,
 * look at it and are told when it changes. Everything happens on the main thread.
 */
class ChatSession(private val app: DemoApplication, private val directory: File) {
    private val model: LanguageModel = RunnerLanguageModel(app.program, app.main, app::memory)
    private val observers = ArrayList<() -> Unit>()
    private var conversation = Conversation(File(directory, "none"))
    private var visibleScreens = 0
    private var savedAt = 0L
    private var startedAt = 0L
    private var pieces = 0

    var bundle: StoredBundle? = null
        private set
    var notice: Notice? = null
        private set

    /** Of the last answer that was finished in this process. */
    var stats: GenerationStats? = null
        private set

    val turns: List<Turn> get() = conversation.turns
    val state: ModelState get() = model.state

    /** Whether an answer is being given, or waits for the model to be loaded. */
    val answering: Boolean get() = conversation.answer.let { it != null && it.ending == null }

    /** Tokens per second of the answer that is being written, by what has come so far; null at its beginning. */
    val currentRate: Double?
        get() = if (pieces < FEW) null else (pieces - 1) / ((System.nanoTime() - startedAt) / 1e9)

    init {
        model.observe { state ->
            if (state is ModelState.Failed) notice = Notice.Problem(state.error)
            changed()
        }
    }

    /** Calls [observer] whenever something changes, until the result is closed. */
    fun observe(observer: () -> Unit): Closeable {
        observers += observer
        return Closeable { observers -= observer }
    }

    /** Takes up the conversation with a bundle and loads the model; does nothing if that is the one already. */
    fun open(wanted: StoredBundle) {
        if (bundle?.directory == wanted.directory && state !is ModelState.Closed) return
        close()
        bundle = wanted
        conversation = Conversation(file(wanted.id))
        model.load(wanted.directory, app.settings.loadOptions(wanted.manifest.longestContext))
        changed()
    }

    /** Loads the model anew, by settings that have changed. */
    fun reload() {
        val current = bundle ?: return
        close()
        open(current)
    }

    fun send(text: String) {
        if (answering || text.isBlank()) return
        notice = null
        conversation.turns += Turn(Role.USER, text.trim())
        answer("")
    }

    /** Another answer to the last question. */
    fun regenerate() {
        if (answering || conversation.question == null) return
        notice = null
        if (conversation.answer != null) conversation.turns.removeAt(conversation.turns.lastIndex)
        answer("")
    }

    /** Goes on with the last answer from where it ended. */
    fun goOn() {
        if (answering || conversation.question == null) return
        notice = notice.takeIf { it == Notice.LowMemory(goesOn = true) }
        val begun = conversation.answer?.text.orEmpty()
        if (conversation.answer != null) conversation.turns.removeAt(conversation.turns.lastIndex)
        answer(begun)
    }

    fun stop() = model.cancel()

    /** Forgets the conversation. */
    fun clear() {
        model.cancel()
        conversation.turns.clear()
        conversation.save()
        notice = null
        stats = null
        changed()
    }

    /** Ends the model's process; the conversation stays on the disk. */
    fun close() {
        model.close()
        bundle = null
        notice = null
        stats = null
        changed()
    }

    /** Forgets a bundle's conversation, with the bundle. */
    fun forget(id: String) {
        if (bundle?.id == id) close()
        file(id).delete()
    }

    /** A screen shows the conversation. What was stopped for want of memory meanwhile goes on. */
    fun screenShown() {
        visibleScreens++
        if (notice == Notice.LowMemory(goesOn = true)) goOn()
    }

    fun screenHidden() {
        visibleScreens--
        conversation.save()
    }

    /** Gives the model's memory back. Nobody looking, it goes on by itself later; otherwise it is for the user to say. */
    fun onLowMemory() {
        if (state !is ModelState.Ready && state !is ModelState.Generating && state !is ModelState.Loading) return
        val wasAnswering = answering
        model.release(ReleaseReason.LOW_MEMORY)
        notice = Notice.LowMemory(goesOn = wasAnswering && visibleScreens == 0)
        changed()
    }

    private fun file(id: String) = File(directory, "$id.json")

    private fun answer(begun: String) {
        pieces = 0
        conversation.turns += Turn(Role.ASSISTANT, begun)
        conversation.save()
        val mine = conversation
        model.generate(request()) { if (conversation === mine) take(it) }
        changed()
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

    private fun take(event: GenerationEvent) {
        when (event) {
            is GenerationEvent.Started -> if (event.droppedMessages > 0) notice = Notice.BeginningDropped
            is GenerationEvent.Text -> {
                if (pieces++ == 0) startedAt = System.nanoTime()
                conversation.replaceAnswer { it.copy(text = it.text + event.text) }
                saveNowAndThen()
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
        conversation.replaceAnswer { it.copy(ending = ending) }
        conversation.save()
    }

    private fun ending(reason: FinishReason) = when (reason) {
        FinishReason.END -> Ending.COMPLETE
        FinishReason.LENGTH -> Ending.LENGTH
        FinishReason.CONTEXT -> Ending.CONTEXT
        FinishReason.CANCELLED -> Ending.STOPPED
    }

    private fun saveNowAndThen() {
        val now = System.nanoTime()
        if (now - savedAt < SAVE_EVERY_NANOSECONDS) return
        savedAt = now
        conversation.save()
    }

    private fun changed() {
        for (observer in observers.toList()) observer()
    }

    private companion object {
        const val SAVE_EVERY_NANOSECONDS = 1_000_000_000L
        const val FEW = 4
    }
}
