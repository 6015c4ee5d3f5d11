package dev.mobilebundle.demo

import android.app.Application
import android.content.ComponentCallbacks2
import android.os.Handler
import android.os.Looper
import dev.mobilebundle.lm.BundleStore
import dev.mobilebundle.lm.DeviceMemory
import dev.mobilebundle.lm.deviceMemory
import dev.mobilebundle.lm.runnerProgram
import java.io.File
import java.util.concurrent.Executor
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors

/** What outlives a screen: the bundles, the conversation and its model, an import or a benchmark that is running. */
class DemoApplication : Application() {
    private val handler = Handler(Looper.getMainLooper())
    val main = Executor { handler.post(it) }

    val store by lazy { BundleStore(File(filesDir, "bundles")) }
    val bundles by lazy { BundleList(this) }
    val settings by lazy { Settings(this) }
    val conversations by lazy { ConversationStore(File(filesDir, "chats")) }
    val chat by lazy { ChatSession(this) }
    val imports by lazy { ImportTask(this) }
    val benchmark by lazy { BenchmarkTask(this) }
    val condition by lazy { PhoneCondition(this) }

    /** Reads and writes conversations, one after the other: what is read is what was written before. */
    val disk: ExecutorService = worker("conversations")

    val program: File get() = runnerProgram(this)

    fun memory(): DeviceMemory = deviceMemory(this)

    private val working = HashSet<Any>()

    /** [who] says whether it has an answer, an import or a download to finish. */
    fun work(who: Any, goesOn: Boolean) {
        val before = working.isNotEmpty()
        if (goesOn) working += who else working -= who
        if (working.isNotEmpty() != before) WorkService.follow(this, working.isNotEmpty())
    }

    /**
     * The child process is large and easily made again, so it goes before anything else. Being in the background alone
     * (TRIM_MEMORY_UI_HIDDEN) is no reason: an answer may be under way.
     */
    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        val critical = level == ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL
        if (critical || level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) chat.onLowMemory()
    }

    override fun onLowMemory() {
        super.onLowMemory()
        chat.onLowMemory()
    }
}

/** A thread that does one thing after the other, and none of them on the main thread. */
internal fun worker(name: String): ExecutorService =
    Executors.newSingleThreadExecutor { work -> Thread(work, name).apply { isDaemon = true } }
