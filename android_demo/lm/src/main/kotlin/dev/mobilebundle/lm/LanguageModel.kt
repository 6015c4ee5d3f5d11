package dev.mobilebundle.lm

import java.io.Closeable
import java.io.File

/** Is told of a model's state. From Java it is a lambda without a result. */
fun interface StateObserver {
    fun onState(state: ModelState)
}

/**
 * A language model in a process of its own.
 *
 * The process is `mobile-run`, started as a child: its memory is its own, and ending it gives all of it back. When it ends,
 * or when the app ends it ([release]), nothing is lost but time: the next [generate] starts it again and computes the
 * conversation anew, or what of it is new to a state that was saved before ([save], [resume]).
 *
 * **Memory.** Weights are mapped from their file, so the kernel may drop them and read them again; only the conversation and
 * the work space ([LoadedModel.predictedAnonymousBytes]) are the process's own. What Android does with the process is known
 * from its documentation and source, not measured here: the low-memory killer (lmkd) chooses among processes that the system
 * started, a child of an app is none of them and keeps the `oom_score_adj` that it was forked with; when the app's process
 * is killed, the child ends, as its standard input does. From Android 12 on the system ends children of apps in the
 * background that use much processor time or are too many (the "phantom process" limits); from Android 14 on it freezes
 * cached apps. So expect that the app and the model go together, keep what was said in the app, and [release] the model on
 * `onTrimMemory`. An answer that must go on behind another app needs a foreground service of the app's.
 *
 * Every function is called on one thread, that of the looper given to the implementation (the main thread, if none is said),
 * and throws IllegalStateException on another; observers and listeners are called there, too. None of them blocks.
 *
 *     val model = RunnerLanguageModel(context)
 *     model.observe { state -> render(state) }
 *     model.load(bundle)
 *     val asked = model.generate(GenerationRequest.Chat(messages)) { event ->
 *         if (event is GenerationEvent.Text) show(event.text)
 *     }
 *     asked.cancel()
 */
interface LanguageModel : Closeable {
    /** What a screen can show of it. */
    val state: ModelState

    /** Calls [observer] at once and whenever [state] changes, until the result is closed. */
    fun observe(observer: StateObserver): Closeable

    /**
     * Opens the bundle in a directory: checks that it fits the phone's memory, decodes what is stored in coded form (once),
     * maps the weights. Ends in [ModelState.Ready] or [ModelState.Failed]. Another bundle that is open is closed first.
     */
    fun load(bundle: File, options: LoadOptions)

    /** With the bundle's own context and the runner's choice of threads. */
    fun load(bundle: File) = load(bundle, LoadOptions())

    /**
     * Answers. The events end with exactly one [GenerationEvent.Finished] or [GenerationEvent.Failed]. A model whose
     * process ended or was released is started again. One that is asked while an answer is being cancelled answers when that
     * has ended; otherwise a second request is [ModelError.StillAnswering].
     */
    fun generate(request: GenerationRequest, listener: GenerationListener): Generation

    /**
     * Writes what the model has read and answered to a file, after the answer that is being given, if there is one. The file
     * appears whole or not at all, and only the app can read it; it holds the conversation, so delete it with that. How large
     * it would be, [GenerationStats.stateBytes] of the last answer says. Requests that are made meanwhile wait.
     */
    fun save(file: File, listener: SavedStateListener)

    /**
     * Takes up what [save] has written, in this process or one before, in place of what the model has read; [generate] then
     * computes only what is new to it, with the same result to the bit. A model whose process ended is started again. A file
     * of another model, or one that is damaged, is refused by its checksums, and the model is as it was: delete it then, and
     * go on without.
     */
    fun resume(file: File, listener: SavedStateListener)

    /** Ends the process to give its memory back; [generate] starts it again. */
    fun release(reason: ReleaseReason)

    /** Ends the process for good; [load] may follow. */
    override fun close()
}

/** How a bundle is opened. [context]: tokens that fit, null for the bundle's own; [threads]: null for the runner's choice. */
data class LoadOptions @JvmOverloads constructor(val context: Int? = null, val threads: Int? = null)

/** Why a process was ended on purpose. */
enum class ReleaseReason { LOW_MEMORY, NOT_NEEDED }
