package dev.mobilebundle.lm

import java.io.Closeable
import java.io.File

/**
 * A language model in a process of its own.
 *
 * The process is `mobile-run`, started as a child: its memory is its own, and ending it gives all of it back. When it ends,
 * or when the app ends it ([release]), nothing is lost but time: the next [generate] starts it again and computes the
 * conversation anew. What Android's low-memory killer does with a child process, before or instead of the app's own, was not
 * measured; expect it to end both.
 *
 * Every function is called on one thread, the one that runs the executor given to the implementation (on Android the
 * main thread); observers and listeners are called there, too. None of them blocks.
 *
 *     val model = RunnerLanguageModel(program, mainThread, { deviceMemory(context) })
 *     model.observe { state -> render(state) }
 *     model.load(bundle)
 *     model.generate(GenerationRequest.Chat(messages)) { event -> if (event is GenerationEvent.Text) show(event.text) }
 */
interface LanguageModel : Closeable {
    /** What a screen can show of it. */
    val state: ModelState

    /** Calls [observer] at once and whenever [state] changes, until the result is closed. */
    fun observe(observer: (ModelState) -> Unit): Closeable

    /**
     * Opens the bundle in a directory: checks that it fits the phone's memory, decodes what is stored in coded form (once),
     * maps the weights. Ends in [ModelState.Ready] or [ModelState.Failed]. Another bundle that is open is closed first.
     */
    fun load(bundle: File, options: LoadOptions = LoadOptions())

    /**
     * Answers. The events end with exactly one [GenerationEvent.Finished] or [GenerationEvent.Failed]. A model whose
     * process ended or was released is started again. One that is asked while an answer is being cancelled answers when that
     * has ended; otherwise a second request is [ModelError.StillAnswering].
     */
    fun generate(request: GenerationRequest, listener: (GenerationEvent) -> Unit)

    /** Stops the answer to what was asked last; it finishes with [FinishReason.CANCELLED]. */
    fun cancel()

    /** Ends the process to give its memory back; [generate] starts it again. */
    fun release(reason: ReleaseReason)

    /** Ends the process for good; [load] may follow. */
    override fun close()
}

/** How a bundle is opened. [context]: tokens that fit, null for the bundle's own; [threads]: null for the runner's choice. */
data class LoadOptions(val context: Int? = null, val threads: Int? = null)

/** Why a process was ended on purpose. */
enum class ReleaseReason { LOW_MEMORY, NOT_NEEDED }
